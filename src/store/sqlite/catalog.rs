//! Skills and workflows.

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::clock::Timestamp;
use crate::store::{CatalogEntry, CatalogKind, StoreError};

fn read(row: &Row<'_>) -> rusqlite::Result<CatalogEntry> {
    Ok(CatalogEntry {
        name: row.get(0)?,
        bytes: row.get::<_, Vec<u8>>(1)?.into(),
        update_time: Timestamp(row.get(2)?),
    })
}

pub(super) fn entry(
    conn: &Connection,
    kind: CatalogKind,
    name: &str,
) -> Result<Option<CatalogEntry>, StoreError> {
    Ok(conn
        .prepare_cached("SELECT name, bytes, update_time FROM catalog WHERE kind = ? AND name = ?")?
        .query_row(params![kind.number(), name], read)
        .optional()?)
}

pub(super) fn page(
    conn: &Connection,
    kind: CatalogKind,
    after: &str,
    bytes_max: usize,
) -> Result<Vec<CatalogEntry>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT name, bytes, update_time FROM catalog WHERE kind = ? AND name > ? ORDER BY name",
    )?;
    let mut entries = Vec::new();
    let mut bytes = 0;
    for entry in statement.query_map(params![kind.number(), after], read)? {
        let entry = entry?;
        bytes += entry.bytes.len();
        if bytes > bytes_max && !entries.is_empty() {
            break;
        }
        entries.push(entry);
    }
    Ok(entries)
}

pub(super) fn put(
    conn: &Connection,
    kind: CatalogKind,
    entry: &CatalogEntry,
    most: usize,
) -> Result<bool, StoreError> {
    let set = conn
        .prepare_cached(
            "UPDATE catalog SET bytes = ?, update_time = ? WHERE kind = ? AND name = ?",
        )?
        .execute(params![
            &entry.bytes[..],
            entry.update_time.0,
            kind.number(),
            entry.name
        ])?;
    if set > 0 {
        return Ok(true);
    }
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let made = conn
        .prepare_cached(
            "INSERT INTO catalog (kind, name, bytes, update_time) SELECT ?1, ?2, ?3, ?4 \
             WHERE (SELECT count(*) FROM catalog WHERE kind = ?1) < ?5",
        )?
        .execute(params![
            kind.number(),
            entry.name,
            &entry.bytes[..],
            entry.update_time.0,
            most
        ])?;
    Ok(made > 0)
}

pub(super) fn delete(conn: &Connection, kind: CatalogKind, name: &str) -> Result<bool, StoreError> {
    let gone = conn
        .prepare_cached("DELETE FROM catalog WHERE kind = ? AND name = ?")?
        .execute(params![kind.number(), name])?;
    Ok(gone > 0)
}
