//! Work in worktrees and clones of its own, on real git repositories.

use std::path::Path;
use std::process::Command;

use claudepool::pb;
use tonic::Code;

use crate::support::{Harness, Running, refused};

/// Runs git in a repository and gives what it prints.
pub fn git(dir: &Path, args: &[&str]) -> String {
    let mut command = Command::new("git");
    command.current_dir(dir).args(args);
    for (name, value) in [
        ("GIT_AUTHOR_NAME", "tester"),
        ("GIT_AUTHOR_EMAIL", "tester@localhost"),
        ("GIT_COMMITTER_NAME", "tester"),
        ("GIT_COMMITTER_EMAIL", "tester@localhost"),
    ] {
        command.env(name, value);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "git {args:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A repository with one commit.
pub fn repository() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    git(dir.path(), &["init", "-q", "-b", "main"]);
    std::fs::write(dir.path().join("README"), "hello\n").unwrap();
    git(dir.path(), &["add", "."]);
    git(dir.path(), &["commit", "-q", "-m", "first"]);
    dir
}

/// A server whose tasks work in `repo`, and may use Bash.
async fn server(repo: &Path, workspaces: &Path) -> Running {
    Harness::with_processes()
        .options(|o| {
            o.working_dir = repo.to_owned();
            o.workspace_dir = Some(workspaces.to_owned());
            o.settings.allowed_tools = vec!["Bash".to_owned()];
        })
        .start()
        .await
}

fn step(name: &str, prompt: &str) -> pb::ChainStep {
    pb::ChainStep {
        name: name.to_owned(),
        action: Some(pb::chain_step::Action::Prompt(prompt.to_owned())),
        ..Default::default()
    }
}

fn task(prompt: &str, isolation: pb::Isolation) -> pb::TaskSpec {
    pb::TaskSpec {
        input: Some(pb::task_spec::Input::Prompt(prompt.to_owned())),
        isolation: isolation as i32,
        ..Default::default()
    }
}

#[tokio::test]
async fn what_a_task_leaves_in_its_worktree_survives_as_a_ref() {
    let (repo, base) = (repository(), tempfile::tempdir().unwrap());
    for isolation in [pb::Isolation::Worktree, pb::Isolation::Clone] {
        let mut server = server(repo.path(), base.path()).await;

        let answer = server
            .finish(task("::bash echo work > made\n::echo done", isolation))
            .await;

        let result = answer.result.unwrap();
        assert!(result.success, "{:?}", result.failure);
        let kept = result.git.expect("a ref");
        let file = format!("{}:made", kept.r#ref);
        assert_eq!(git(repo.path(), &["show", &file]), "work");
        assert!(kept.diffstat.contains("made"));
        assert!(
            !repo.path().join("made").exists(),
            "the user's tree is as it was"
        );
        let trees = git(repo.path(), &["worktree", "list"]);
        assert_eq!(trees.lines().count(), 1, "{trees}");
    }
}

#[tokio::test]
async fn a_chain_in_a_repository_hands_its_commits_from_step_to_step() {
    let (repo, base) = (repository(), tempfile::tempdir().unwrap());
    let mut server = server(repo.path(), base.path()).await;
    let commit = "::bash echo two > second && git add second && \
                  git -c user.name=a -c user.email=a@localhost commit -q -m second";
    let call = pb::SubmitChainRequest {
        steps: vec![
            step("look", "::echo looked"),
            step("commit", commit),
            step("read", "::bash cat second\n::echo read"),
        ],
        ..Default::default()
    };

    let id = server
        .work
        .submit_chain(call)
        .await
        .unwrap()
        .into_inner()
        .task_id;
    let result = server.result(&id).await.result.unwrap();

    assert!(result.success, "{:?}", result.failure);
    let kept = result.git.expect("a ref");
    let subject = git(repo.path(), &["log", "-1", "--format=%s", &kept.r#ref]);
    assert_eq!(subject, "second", "the commit is reachable");
    let trees = git(repo.path(), &["worktree", "list"]);
    assert_eq!(trees.lines().count(), 1, "{trees}");
    assert_eq!(git(repo.path(), &["log", "--format=%s", "main"]), "first");
    let read = result.chain.unwrap().steps[2].task_id.clone();
    let log = server.watch(&read, 0).await;
    let events = crate::support::events(log).await;
    let saw = events.iter().any(|event| {
        matches!(&event.kind, Some(pb::event::Kind::ToolResult(t)) if t.output.contains("two"))
    });
    assert!(saw, "the third step found what the second had made");
}

#[tokio::test]
async fn isolation_without_a_repository_is_refused() {
    let (dir, base) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut server = server(dir.path(), base.path()).await;
    let request = pb::SubmitRequest {
        task: Some(task("::echo x", pb::Isolation::Worktree)),
        ..Default::default()
    };
    let answer = server.work.submit(request).await;
    refused(answer, Code::FailedPrecondition, "NOT_A_REPOSITORY");
}

#[tokio::test]
async fn a_cancelled_task_keeps_what_it_had_done() {
    let (repo, base) = (repository(), tempfile::tempdir().unwrap());
    let mut server = server(repo.path(), base.path()).await;
    let prompt = "::bash echo half > made\n::echo working\n::hang";
    let id = server.submit(task(prompt, pb::Isolation::Worktree)).await;
    server.said(&id).await;
    let cancel = pb::CancelRequest {
        target: Some(pb::cancel_request::Target::TaskId(id.clone())),
    };
    server.work.cancel(cancel).await.unwrap();
    let answer = server.result(&id).await;
    assert_eq!(answer.task.unwrap().state(), pb::TaskState::Cancelled);
    let kept = answer.result.unwrap().git.expect("a ref");
    let file = format!("{}:made", kept.r#ref);
    assert_eq!(git(repo.path(), &["show", &file]), "half");
}
