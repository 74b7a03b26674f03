//! `claudepool context`.

use super::args::work::value_or_stdin;
use super::args::{ContextAction, ContextArgs};
use super::client::Client;
use super::failure::Failure;
use super::render::line;
use crate::pb;

pub(super) async fn context(mut client: Client, args: ContextArgs) -> Result<(), Failure> {
    match args.action.unwrap_or(ContextAction::List) {
        ContextAction::Set { key, value } => {
            let value = value_or_stdin(value)?;
            let request = pb::SetContextRequest { key, value };
            let answer = client.context.set_context(request).await;
            let answer = client.answer(answer)?;
            client.show("SetContextResponse", &answer, |a| {
                line(&format!("revision {}", a.revision));
            });
        }
        ContextAction::Get { key } => {
            let request = pb::GetContextRequest { key };
            let answer = client.context.get_context(request).await;
            let entry = client.answer(answer)?.entry.unwrap_or_default();
            client.show("ContextEntry", &entry, |e| line(&e.value));
        }
        ContextAction::Delete { key } => {
            let request = pb::DeleteContextRequest { key };
            let answer = client.context.delete_context(request).await;
            let answer = client.answer(answer)?;
            client.show("DeleteContextResponse", &answer, |a| {
                line(&format!("revision {}", a.revision));
            });
        }
        ContextAction::List => {
            let request = pb::ListContextRequest {
                page_size: 1000,
                ..pb::ListContextRequest::default()
            };
            let answer = client.context.list_context(request).await;
            for entry in &client.answer(answer)?.entries {
                client.show("ContextEntry", entry, |e| {
                    line(&format!("{} = {}", e.key, e.value));
                });
            }
        }
    }
    Ok(())
}
