//! The directory of an attempt.

use std::path::{Path, PathBuf};

use crate::error::Error;

/// Where tasks may work: every path resolved, symlinks included.
#[derive(Clone, Debug)]
pub struct Roots {
    default: PathBuf,
    roots: Vec<PathBuf>,
}

impl Roots {
    /// Resolves the operator's directories. The error is one sentence.
    pub async fn resolve(default: &Path, roots: &[PathBuf]) -> Result<Self, String> {
        let default = directory(default)
            .await
            .map_err(|problem| format!("working_dir {}: {problem}", default.display()))?;
        let mut resolved = Vec::new();
        for root in roots {
            resolved.push(
                directory(root)
                    .await
                    .map_err(|problem| format!("policy.roots {}: {problem}", root.display()))?,
            );
        }
        if resolved.is_empty() {
            resolved.push(default.clone());
        }
        Ok(Self {
            default,
            roots: resolved,
        })
    }

    /// The directory of tasks that name none.
    pub fn default_dir(&self) -> &Path {
        &self.default
    }

    /// The directory a spec names, resolved; inside the roots.
    pub async fn admit(&self, working_dir: &str, path: &str) -> Result<PathBuf, Error> {
        if working_dir.is_empty() {
            return Ok(self.default.clone());
        }
        let field = format!("{path}working_dir");
        let asked = Path::new(working_dir);
        // The policy comes first, by the name alone where the path does not
        // exist: what lies outside the roots is not even told to exist.
        let resolved = match directory(asked).await {
            Ok(dir) => dir,
            Err(message) if self.covers(asked) => {
                return Err(Error::WorkingDir {
                    field,
                    message: message.to_owned(),
                });
            }
            Err(_) => asked.to_owned(),
        };
        if self.covers(&resolved) {
            Ok(resolved)
        } else {
            Err(Error::Policy {
                field,
                message: "lies outside the directories that the policy allows".to_owned(),
            })
        }
    }

    fn covers(&self, path: &Path) -> bool {
        let climbs = path
            .components()
            .any(|part| matches!(part, std::path::Component::ParentDir));
        !climbs && self.roots.iter().any(|root| path.starts_with(root))
    }
}

async fn directory(path: &Path) -> Result<PathBuf, &'static str> {
    let resolved = tokio::fs::canonicalize(path)
        .await
        .map_err(|_| "does not exist or cannot be entered")?;
    match tokio::fs::metadata(&resolved).await {
        Ok(metadata) if metadata.is_dir() => Ok(resolved),
        Ok(_) => Err("is not a directory"),
        Err(_) => Err("cannot be entered"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_outside_the_roots_is_refused_also_through_a_symlink() {
        let temp = tempfile::tempdir().expect("a directory");
        let root = temp.path().join("root");
        std::fs::create_dir_all(root.join("inside")).expect("made");
        std::fs::create_dir_all(temp.path().join("outside")).expect("made");
        std::fs::write(root.join("file"), "x").expect("written");
        std::os::unix::fs::symlink(temp.path().join("outside"), root.join("link")).expect("linked");
        let roots = Roots::resolve(&root, &[]).await.expect("resolved");
        let admit = async |name: &str| {
            let path = root.canonicalize().expect("there").join(name);
            roots.admit(&path.to_string_lossy(), "task.").await
        };

        assert!(admit("inside").await.is_ok());
        assert!(matches!(admit("link").await, Err(Error::Policy { .. })));
        assert!(matches!(
            admit("../outside").await,
            Err(Error::Policy { .. })
        ));
        assert!(matches!(
            admit("missing").await,
            Err(Error::WorkingDir { .. })
        ));
        assert!(matches!(admit("file").await, Err(Error::WorkingDir { .. })));
        assert!(matches!(
            roots.admit("/etc/nothing-here", "task.").await,
            Err(Error::Policy { .. })
        ));
    }
}
