//! Skills and workflows from folders that the operator named.
//!
//! A folder holds `NAME/SKILL.md`, `NAME.json` (skills), `NAME.workflow.yaml`
//! and `NAME.workflow.json`. A bad file is a warning that names it and nothing
//! else. A link that leads out of its folder is not followed.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::skill::{check_skill, skill_from_json, skill_from_markdown};
use super::workflow::{check_workflow, workflow_from_json, workflow_from_yaml};
use super::{ENTRIES_MAX, ENTRY_BYTES_MAX, Fixed};
use crate::error::Violation;
use crate::pb::{self, CatalogSource};

/// Most entries of one folder that are looked at.
const LOOKED_AT_MAX: usize = 10_000;

/// A file, or folder, that could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Which.
    pub path: PathBuf,
    /// Why, in one sentence.
    pub message: String,
}

/// Reads folders, in order of preference: of two entries of one name, the one
/// in the earlier folder holds. Blocks; meant for the start of a server.
pub fn load(folders: &[PathBuf]) -> (Fixed, Vec<Warning>) {
    let mut loader = Loader::default();
    for folder in folders {
        if let Err(error) = loader.folder(folder) {
            loader.warn(folder, format!("the folder cannot be read: {error}"));
        }
    }
    (loader.fixed, loader.warnings)
}

#[derive(Default)]
struct Loader {
    fixed: Fixed,
    warnings: Vec<Warning>,
}

enum Found {
    Skill(pb::Skill),
    Workflow(pb::Workflow),
}

impl Loader {
    fn folder(&mut self, folder: &Path) -> io::Result<()> {
        let root = folder.canonicalize()?;
        let mut names = Vec::new();
        for entry in fs::read_dir(&root)? {
            if names.len() == LOOKED_AT_MAX {
                self.warn(
                    folder,
                    format!("only {LOOKED_AT_MAX} entries are looked at"),
                );
                break;
            }
            names.push(entry?.file_name());
        }
        names.sort();
        for name in names {
            let path = root.join(&name);
            let Some(name) = name.to_str() else {
                continue;
            };
            match read(&root, &path, name) {
                Ok(None) => {}
                Ok(Some(found)) => self.add(found, &path),
                Err(message) => self.warn(&path, message),
            }
        }
        Ok(())
    }

    fn add(&mut self, found: Found, path: &Path) {
        let source = CatalogSource::Folder;
        let (count, kind) = match &found {
            Found::Skill(_) => (self.fixed.skills.len(), "skills"),
            Found::Workflow(_) => (self.fixed.workflows.len(), "workflows"),
        };
        if count == ENTRIES_MAX {
            return self.warn(path, format!("there are {ENTRIES_MAX} {kind} already"));
        }
        let added = match found {
            Found::Skill(skill) => self.fixed.add_skill(skill, source),
            Found::Workflow(workflow) => self.fixed.add_workflow(workflow, source),
        };
        if !added {
            self.warn(path, "hidden by an earlier one of the same name".to_owned());
        }
    }

    fn warn(&mut self, path: &Path, message: String) {
        self.warnings.push(Warning {
            path: path.to_owned(),
            message,
        });
    }
}

/// What an entry of a folder holds; `None`: nothing of ours.
fn read(root: &Path, path: &Path, file: &str) -> Result<Option<Found>, String> {
    let (name, found) = if let Some(name) = file.strip_suffix(".workflow.yaml") {
        (
            name,
            Found::Workflow(workflow_from_yaml(&text(root, path)?)?),
        )
    } else if let Some(name) = file.strip_suffix(".workflow.json") {
        (
            name,
            Found::Workflow(workflow_from_json(&text(root, path)?)?),
        )
    } else if let Some(name) = file.strip_suffix(".json") {
        (name, Found::Skill(skill_from_json(&text(root, path)?)?))
    } else {
        let inner = path.join("SKILL.md");
        // No such file, or `path` is no directory: a neighbour, not a skill.
        if inner.symlink_metadata().is_err() {
            return Ok(None);
        }
        (
            file,
            Found::Skill(skill_from_markdown(&text(root, &inner)?)?),
        )
    };
    let (own, checked) = match &found {
        Found::Skill(skill) => (&skill.name, check_skill(skill, "")),
        Found::Workflow(workflow) => (&workflow.name, check_workflow(workflow, "")),
    };
    checked.map_err(|found| describe(&found))?;
    if own != name {
        return Err(format!(
            "its name is \"{own}\" but its place says \"{name}\""
        ));
    }
    Ok(Some(found))
}

/// A file's text, if it lies in `root` with all links resolved.
fn text(root: &Path, path: &Path) -> Result<String, String> {
    let real = path.canonicalize().map_err(|e| e.to_string())?;
    if !real.starts_with(root) {
        return Err("leads out of its folder".to_owned());
    }
    // Before it is opened: the open of a pipe would wait.
    if !real.metadata().is_ok_and(|m| m.is_file()) {
        return Err("is no file".to_owned());
    }
    let file = fs::File::open(&real).map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    file.take(ENTRY_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| e.to_string())?;
    if bytes.len() > ENTRY_BYTES_MAX {
        return Err(format!("is longer than {ENTRY_BYTES_MAX} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "is no UTF-8 text".to_owned())
}

fn describe(found: &[Violation]) -> String {
    found
        .iter()
        .map(|v| format!("{}: {}", v.field, v.message))
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests;
