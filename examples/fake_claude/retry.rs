//! How the API fails in a script, and how often it is tried again.

use std::time::Duration;

use claudepool::demo::script::FaultKind;
use claudepool::demo::wire;
use serde_json::json;

use crate::cli::Cli;
use crate::turn::Stop;
use crate::{env_number, lines};

impl Cli {
    /// Meets an HTTP error: waits and goes on, or gives up.
    pub async fn retry(&mut self, attempt: &mut u32, kind: FaultKind) -> Result<(), Stop> {
        let (status, word, text) = wire::error_words(kind);
        let failed = |word, text| {
            Err(Stop::Failed {
                status: Some(status),
                word,
                text,
            })
        };
        match (kind, status) {
            (FaultKind::Silent, _) => {
                self.during(std::future::pending::<()>()).await?;
                Ok(())
            }
            (FaultKind::Limit, _) => failed(
                "rate_limit",
                format!("API Error: Request rejected (429) · {text}"),
            ),
            (FaultKind::Status { retry_after_s, .. }, 401 | 429 | 500..) => {
                let word = match status {
                    401 => "authentication_failed",
                    429 => "rate_limit",
                    529 => "overloaded",
                    _ => "server_error",
                };
                if status == 529 && *attempt >= 2 {
                    return failed(
                        "server_error",
                        "API Error: Repeated 529 Overloaded errors".to_owned(),
                    );
                }
                self.pause_retry(attempt, Some(status), word, retry_after_s)
                    .await
            }
            (_, 403) => {
                let text = format!("Failed to authenticate. API Error: 403 {text}");
                failed("authentication_failed", text)
            }
            (_, 404) => {
                let model = &self.model;
                let text = format!("There's an issue with the selected model ({model}).");
                failed("model_not_found", text)
            }
            (_, status) => failed(word, format!("API Error: {status} {text}")),
        }
    }

    /// Waits before the next try, or gives up if it was the last one.
    pub async fn pause_retry(
        &mut self,
        attempt: &mut u32,
        status: Option<u16>,
        word: &'static str,
        retry_after_s: Option<u64>,
    ) -> Result<(), Stop> {
        let max = env_number("CLAUDE_CODE_MAX_RETRIES").map_or(10, |n| n as u32);
        if *attempt >= max {
            let text = match status {
                Some(401) => "Invalid API key · Fix external API key".to_owned(),
                Some(429) => format!("API Error: Request rejected (429) · {}", wire_text(429)),
                Some(code) => format!("API Error: {code} {}", wire_text(code)),
                None => "API Error: Connection to the API was lost (ECONNRESET).".to_owned(),
            };
            return Err(Stop::Failed { status, word, text });
        }
        *attempt += 1;
        let backoff_ms = (550 << (*attempt - 1).min(7)).min(36_000);
        let delay_ms = retry_after_s.map_or(backoff_ms, |s| s * 1000);
        self.out(
            &json!({"type": "system", "subtype": "api_retry", "attempt": *attempt,
            "max_retries": max, "retry_delay_ms": delay_ms, "error_status": status,
            "error": word, "session_id": self.session.id, "uuid": lines::uuid()}),
        );
        let scale = env_number("FAKE_TIME_SCALE").unwrap_or(0.01).max(0.0);
        let pause = Duration::from_millis(delay_ms).mul_f64(scale);
        self.during(tokio::time::sleep(pause)).await?;
        Ok(())
    }
}

fn wire_text(code: u16) -> &'static str {
    wire::error_words(FaultKind::Status {
        code,
        retry_after_s: None,
    })
    .2
}
