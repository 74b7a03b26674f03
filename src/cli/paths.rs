//! Where a server keeps what it keeps.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::failure::Failure;
use super::{program, scratch};
use crate::config::{Config, StoreUrl};

/// Fills in what is left unset, so that the configuration shown is the one in
/// force. A memory store has a state directory for as long.
pub(super) fn settle_paths(config: &mut Config) -> Result<Option<TempDir>, Failure> {
    let absolute = |path: &Path| {
        std::path::absolute(path)
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
    };
    let program = program::find(config.agent.program.as_deref()).map_err(Failure::failed)?;
    config.agent.program = Some(program);
    config.pool.working_dir = absolute(&config.pool.working_dir)?;
    let store = match config.store.take() {
        Some(store) => store,
        None => {
            let dir = program::data_dir().map_err(Failure::failed)?;
            StoreUrl(format!("sqlite:{}", dir.join("claudepool.db").display()))
        }
    };
    let mut scratch = None;
    let file = store.file().map(absolute).transpose()?;
    if let Some(file) = &file
        && let Some(dir) = file.parent()
    {
        private_dir(dir)?;
    }
    if config.pool.workspace_dir.is_none() {
        // What cannot be kept as a ref stays there, so it outlives the server
        // also where nothing else does.
        config.pool.workspace_dir = match &file {
            Some(file) => {
                let mut name = file.clone().into_os_string();
                name.push(".workspaces");
                Some(PathBuf::from(name))
            }
            None => program::data_dir().ok().map(|dir| dir.join("workspaces")),
        };
    }
    if config.agent.state_dir.is_none() {
        config.agent.state_dir = Some(match &file {
            Some(file) => {
                let mut name = file.clone().into_os_string();
                name.push(".agent");
                PathBuf::from(name)
            }
            None => {
                let dir = scratch::make()
                    .map_err(|e| Failure::failed(format!("no temporary directory: {e}")))?;
                scratch.insert(dir).path().to_owned()
            }
        });
    }
    config.store = Some(match file {
        Some(file) => StoreUrl(format!("sqlite:{}", file.display())),
        None => store,
    });
    Ok(scratch)
}

/// Makes a directory that only its owner can read, if it is not there.
fn private_dir(dir: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| Failure::failed(format!("{} cannot be made: {error}", dir.display())))
}
