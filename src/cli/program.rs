//! Where the CLI's program and the data folder are.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The folder for what the server keeps: `$XDG_DATA_HOME/claudepool`, else
/// `~/.local/share/claudepool`.
pub(super) fn data_dir() -> Result<PathBuf, String> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_DATA_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local/share")))
        .map(|base| base.join("claudepool"))
        .ok_or_else(|| {
            "there is no data folder: set HOME or XDG_DATA_HOME, or say --store and \
             agent.state_dir"
                .to_owned()
        })
}

/// The npm package that holds the program for this machine.
pub(super) fn platform_package() -> String {
    let os = match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    let arch = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("claude-code-{os}-{arch}")
}

/// Where the demo installs the program.
pub(super) fn installed(data_dir: &Path) -> PathBuf {
    install_dir(data_dir)
        .join("node_modules/@anthropic-ai")
        .join(platform_package())
        .join("claude")
}

/// The folder the demo gives to npm.
pub(super) fn install_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("claude")
}

/// The CLI's program: the named one, else `claude` in `PATH`, else the one that
/// the demo installed.
pub(super) fn find(named: Option<&Path>) -> Result<PathBuf, String> {
    if let Some(named) = named {
        let found = if named.components().count() > 1 {
            std::path::absolute(named)
                .ok()
                .filter(|path| path.is_file())
        } else {
            in_path(named)
        };
        return found.map(|path| native(&path)).ok_or_else(|| {
            format!(
                "the program {} does not exist: say where the Claude Code CLI is with --claude-bin",
                named.display()
            )
        });
    }
    if let Some(path) = in_path(Path::new("claude")) {
        return Ok(native(&path));
    }
    data_dir()
        .ok()
        .map(|dir| installed(&dir))
        .filter(|path| path.is_file())
        .ok_or_else(|| {
            "there is no `claude` in PATH: install it (npm install -g @anthropic-ai/claude-code), \
             say where it is with --claude-bin, or let `claudepool demo` install it"
                .to_owned()
        })
}

fn in_path(name: &Path) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// The native program behind npm's wrapper script, if that is what `path` is:
/// it starts at once and needs no Node. Otherwise `path` itself.
fn native(path: &Path) -> PathBuf {
    let Ok(real) = path.canonicalize() else {
        return path.to_owned();
    };
    if is_native(&real) {
        return real;
    }
    let package = platform_package();
    let beside = |dir: &Path| {
        [
            dir.join(&package).join("claude"),
            dir.join("node_modules/@anthropic-ai")
                .join(&package)
                .join("claude"),
        ]
    };
    // npm puts the platform's package beside the wrapper's or inside it.
    real.ancestors()
        .skip(1)
        .take(5)
        .flat_map(beside)
        .find(|candidate| is_native(candidate))
        .unwrap_or(real)
}

/// Whether the file is an ELF or Mach-O program.
fn is_native(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok()
        && matches!(
            magic,
            [0x7f, b'E', b'L', b'F'] | [0xcf, 0xfa, 0xed, 0xfe] | [0xca, 0xfe, 0xba, 0xbe]
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &Path, content: &[u8]) -> PathBuf {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        path.to_owned()
    }

    #[test]
    fn npms_wrapper_leads_to_the_native_program_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let scope = dir
            .path()
            .canonicalize()
            .unwrap()
            .join("node_modules/@anthropic-ai");
        let wrapper = file(
            &scope.join("claude-code/cli-wrapper.cjs"),
            b"#!/usr/bin/env node\n",
        );
        let program = file(
            &scope.join(platform_package()).join("claude"),
            b"\x7fELF rest",
        );
        let link = dir.path().join("claude");
        std::os::unix::fs::symlink(&wrapper, &link).unwrap();

        assert_eq!(native(&link), program);
    }

    #[test]
    fn a_script_without_a_native_program_is_taken_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let script = file(
            &dir.path().canonicalize().unwrap().join("claude"),
            b"#!/bin/sh\n",
        );

        assert_eq!(native(&script), script);
    }
}
