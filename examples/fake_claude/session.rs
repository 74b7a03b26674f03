//! One conversation: what was said, what it cost, and its file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use claudepool::demo::script::Usage;
use serde_json::{Value, json};
use uuid::Uuid;

/// What one model used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    pub input: u64,
    pub output: u64,
    pub usd: f64,
}

/// A conversation.
#[derive(Clone, Debug, Default)]
pub struct Session {
    pub id: String,
    /// Role and text, in order.
    pub messages: Vec<(String, String)>,
    pub cost_usd: f64,
    /// What of it was there when the conversation was resumed.
    pub restored_usd: f64,
    /// By model, since the start of the conversation.
    pub spent: BTreeMap<String, Spent>,
    /// By model, since the last result.
    pub spent_since: BTreeMap<String, Spent>,
}

impl Session {
    /// A new conversation, named `id` if given.
    pub fn new(id: Option<String>) -> Self {
        Self {
            id: id.unwrap_or_else(|| Uuid::new_v4().to_string()),
            ..Self::default()
        }
    }

    pub fn say(&mut self, role: &str, text: impl Into<String>) {
        self.messages.push((role.to_owned(), text.into()));
    }

    /// Books the tokens of one API message.
    pub fn book(&mut self, model: &str, usage: Usage) {
        let (input, output) = prices(model);
        let usd = usage.input as f64 * input + usage.output as f64 * output;
        self.cost_usd += usd;
        for spent in [&mut self.spent, &mut self.spent_since] {
            let entry = spent.entry(model.to_owned()).or_default();
            entry.input += usage.input;
            entry.output += usage.output;
            entry.usd += usd;
        }
    }

    /// Books money without tokens.
    pub fn book_usd(&mut self, model: &str, usd: f64) {
        self.cost_usd += usd;
        for spent in [&mut self.spent, &mut self.spent_since] {
            spent.entry(model.to_owned()).or_default().usd += usd;
        }
    }

    /// Bytes that a request would carry: the CLI's own part and the conversation.
    pub fn request_bytes(&self) -> usize {
        const OWN_BYTES: usize = 10_000;
        OWN_BYTES
            + self
                .messages
                .iter()
                .map(|(_, text)| text.len())
                .sum::<usize>()
    }

    /// Writes the conversation to its file.
    pub fn save(&self, cwd: &Path) -> std::io::Result<()> {
        let folder = projects().join(cwd.to_string_lossy().replace(['/', '.'], "-"));
        std::fs::create_dir_all(&folder)?;
        let mut text = String::new();
        for (role, said) in &self.messages {
            let line = json!({"type": role, "message": {"role": role, "content": said},
                "sessionId": self.id, "cwd": cwd});
            text.push_str(&format!("{line}\n"));
        }
        let line = json!({"type": "fake_cost", "usd": self.cost_usd, "sessionId": self.id});
        text.push_str(&format!("{line}\n"));
        std::fs::write(folder.join(format!("{}.jsonl", self.id)), text)
    }

    /// Reads the conversation `id` from whatever project it was held in.
    pub fn load(id: &str) -> Option<Self> {
        let text = std::fs::read_to_string(find(id)?).ok()?;
        let mut session = Self::new(Some(id.to_owned()));
        for line in text
            .lines()
            .filter_map(|l| serde_json::from_str::<Value>(l).ok())
        {
            if let Some(usd) = line["usd"].as_f64() {
                session.cost_usd = usd;
                session.restored_usd = usd;
            } else if let Some(said) = line["message"]["content"].as_str() {
                session.say(line["message"]["role"].as_str().unwrap_or("user"), said);
            }
        }
        Some(session)
    }
}

/// The file of session `id`.
pub fn find(id: &str) -> Option<PathBuf> {
    let folders = std::fs::read_dir(projects()).ok()?;
    let file = format!("{id}.jsonl");
    let mut files = folders.flatten().map(|folder| folder.path().join(&file));
    files.find(|file| file.is_file())
}

fn projects() -> PathBuf {
    let config = std::env::var_os("CLAUDE_CONFIG_DIR").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".claude");
    config.unwrap_or_else(home).join("projects")
}

/// Dollars per token read and per token written, as the CLI was seen to count.
fn prices(model: &str) -> (f64, f64) {
    if model.contains("haiku") {
        (0.1e-6, 0.5e-6)
    } else {
        (4e-6, 20e-6)
    }
}

/// `spent` as the CLI tells it.
pub fn spent_json(spent: &BTreeMap<String, Spent>) -> Value {
    let one = |s: &Spent| {
        json!({"inputTokens": s.input, "outputTokens": s.output, "cacheReadInputTokens": 0,
            "cacheCreationInputTokens": 0, "webSearchRequests": 0, "costUSD": s.usd,
            "contextWindow": 1_000_000, "maxOutputTokens": 128_000})
    };
    spent
        .iter()
        .map(|(model, s)| (model.clone(), one(s)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
