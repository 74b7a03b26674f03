//! Background tasks: processes that outlive their turn.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::cli::{Cli, Prompt};
use crate::input::Input;
use crate::{IN_SESSION, lines, tree};

/// A background task that runs.
#[derive(Debug)]
pub struct Task {
    pub id: String,
    run_id: String,
    pid: i32,
    tool_use_id: String,
}

impl Cli {
    /// Starts `command` in the background and tells of it; the id of the task.
    pub fn start_task(&mut self, command: &str, tool_use_id: &str) -> Result<String, String> {
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut child = tokio::process::Command::new(program)
            .args([IN_SESSION, command])
            .current_dir(&self.cwd)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| e.to_string())?;
        let id = format!("b{}", &lines::uuid()[..8]);
        self.tasks.push(Task {
            id: id.clone(),
            run_id: lines::uuid(),
            pid: child.id().unwrap_or_default() as i32,
            tool_use_id: tool_use_id.to_owned(),
        });
        let (inputs, task_id) = (self.inputs_tx.clone(), id.clone());
        tokio::spawn(async move {
            let status = child.wait().await;
            let code = status.ok().and_then(|s| s.code()).unwrap_or(-1);
            // The program is ending if nobody listens.
            let _ = inputs.send(Input::TaskEnded { id: task_id, code });
        });
        self.tasks_changed();
        self.out(
            &json!({"type": "system", "subtype": "task_started", "task_id": id,
            "tool_use_id": tool_use_id, "description": "run it", "is_backgrounded": true,
            "task_type": "local_bash", "uuid": lines::uuid(), "session_id": self.session.id}),
        );
        Ok(id)
    }

    /// Kills task `id`; an unknown one is no error.
    pub fn stop_task(&mut self, id: &str) {
        if let Some(task) = self.remove_task(id) {
            tree::kill(task.pid, true);
            self.tell_end(&task, "killed", "stopped", "was stopped");
        }
    }

    /// A task ended by itself: the model is told of it by a turn of its own.
    pub fn task_ended(&mut self, id: &str, code: i32) {
        let Some(task) = self.remove_task(id) else {
            return;
        };
        self.tell_end(
            &task,
            "completed",
            "completed",
            &format!("completed (exit code {code})"),
        );
        let text = format!("<task-notification>\n<task-id>{id}</task-id>\n</task-notification>");
        self.queue.push_back(Prompt {
            text,
            uuid: None,
            origin: Some(
                json!({"kind": "task-notification", "producer": "session-task",
                "runId": task.run_id}),
            ),
        });
    }

    /// Writes the list of the tasks that run.
    pub fn tasks_changed(&self) {
        let tasks: Vec<Value> = (self.tasks.iter())
            .map(|t| {
                json!({"task_id": t.id, "run_id": t.run_id, "task_type": "local_bash",
                    "description": "run it"})
            })
            .collect();
        self.out(
            &json!({"type": "system", "subtype": "background_tasks_changed",
            "tasks": tasks, "uuid": lines::uuid(), "session_id": self.session.id}),
        );
    }

    fn remove_task(&mut self, id: &str) -> Option<Task> {
        let index = self.tasks.iter().position(|t| t.id == id)?;
        Some(self.tasks.remove(index))
    }

    fn tell_end(&self, task: &Task, update: &str, status: &str, words: &str) {
        self.out(
            &json!({"type": "system", "subtype": "task_updated", "task_id": task.id,
            "run_id": task.run_id, "patch": {"status": update}, "uuid": lines::uuid(),
            "session_id": self.session.id}),
        );
        self.out(
            &json!({"type": "system", "subtype": "task_notification", "task_id": task.id,
            "run_id": task.run_id, "tool_use_id": task.tool_use_id, "status": status,
            "output_file": "", "summary": format!("Background command \"run it\" {words}"),
            "uuid": lines::uuid(), "session_id": self.session.id}),
        );
        self.tasks_changed();
    }
}
