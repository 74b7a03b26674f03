//! The Claude Code CLI.
