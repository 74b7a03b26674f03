//! What every agent must pass.
//!
//! Give [`agent_conformance!`](crate::agent_conformance) a function that makes a
//! [`Kit`], and each case becomes a test of its own. Behind the agent there must
//! be a model that plays the scripts of `claudepool::demo::script`: a line
//! `::echo x` answers `x`, `::bash x` calls the tool Bash, `::hang` never ends.
//!
//! No case waits for a while: each waits for what it wants to see, with
//! [`LIMIT`] as a net.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Agent, Dials, Launch, Observation, Placement, Profile, Session, Turn, TurnEnd};

mod data;
mod lives;
mod turns;

pub use data::*;
pub use lives::*;
pub use turns::*;

/// Longest time a case may wait for one thing. Far more than any agent needs.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Time a process gets to end in peace.
pub const GRACE: Duration = Duration::from_secs(5);

/// What a case works with. Each case gets its own.
#[async_trait]
pub trait Kit: Send + Sync {
    /// The agent under test.
    fn agent(&self) -> Arc<dyn Agent>;

    /// Whether processes are started as spares and then claimed.
    fn spares(&self) -> bool;

    /// An empty directory, removed with the kit.
    fn workspace(&self) -> PathBuf;

    /// Plays one more turn and tells all that the model was shown in it: system
    /// prompt, earlier messages, prompt; as text in any form.
    async fn shown(&self, session: &mut dyn Session) -> String;
}

/// Makes every case a test. `$kit`: an async function that makes a [`Kit`].
#[macro_export]
macro_rules! agent_conformance {
    ($kit:path) => {
        $crate::agent_conformance! { $kit =>
            a_turn_answers
            deltas_joined_are_the_output
            two_turns_share_a_conversation
            a_reset_forgets
            equal_turns_cost_the_same
            usage_can_be_asked_within_a_turn
            an_interrupted_turn_ends_and_the_process_serves_another
            an_interrupt_right_after_the_begin_ends_the_turn
            an_interrupt_between_turns_does_no_harm
            dials_are_in_force
            a_dial_that_is_refused_is_named
            structured_output_satisfies_the_schema
            a_command_in_a_prompt_is_text
            a_path_in_a_prompt_reads_no_file
            odd_characters_arrive
            a_long_prompt_arrives
            an_empty_prompt_is_refused
            a_placement_is_in_force
            a_directory_that_is_not_there_is_refused
            a_saved_session_is_resumed_and_pays_its_past_once
            a_forgotten_session_is_not_resumed
            a_session_that_is_not_there_is_not_resumed
            everything_below_is_gone_after_the_end
            everything_below_is_gone_after_a_drop
            a_process_in_the_background_makes_it_unclean
            a_killed_process_tells_its_signal
            a_probe_finds_the_agent_usable
        }
    };
    ($kit:path => $($case:ident)*) => {
        $(
            #[tokio::test]
            async fn $case() {
                let kit = $kit().await;
                $crate::agent::conformance::$case(&kit).await;
            }
        )*
    };
}

/// A profile in which the tool Bash runs unasked.
pub fn profile() -> Profile {
    Profile {
        allowed_tools: vec!["Bash".into()],
        ..Profile::default()
    }
}

/// A placement in `dir` without prompts.
pub fn placement(dir: &Path) -> Placement {
    Placement {
        working_dir: dir.to_owned(),
        system_prompt: None,
        append_system_prompt: None,
    }
}

/// The outcome of `future`, which must come in time.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future)
        .await
        .unwrap_or_else(|_| panic!("{what} did not come within {LIMIT:?}"))
}

/// A process of the kit in its workspace, ready for a turn.
pub async fn ready(kit: &dyn Kit) -> Box<dyn Session> {
    placed(kit, profile(), placement(&kit.workspace())).await
}

/// A process of the kit with this placement, ready for a turn.
pub async fn placed(kit: &dyn Kit, profile: Profile, placement: Placement) -> Box<dyn Session> {
    let launch = Launch {
        profile,
        placement: (!kit.spares()).then(|| placement.clone()),
        resume: None,
    };
    let mut session = within("the start", kit.agent().launch(launch))
        .await
        .expect("a process starts");
    if kit.spares() {
        within("the claim", session.claim(&placement))
            .await
            .expect("a spare is claimed");
    }
    session
}

/// A turn, played to its end.
#[derive(Debug)]
pub struct Played {
    /// All that was told.
    pub told: Vec<Observation>,
    /// How it ended.
    pub end: TurnEnd,
}

impl Played {
    /// The agent's own text, joined.
    pub fn text(&self) -> String {
        let text = |o: &Observation| match o {
            Observation::TextDelta {
                text,
                parent_tool_use_id,
            } if parent_tool_use_id.is_empty() => Some(text.clone()),
            _ => None,
        };
        self.told.iter().filter_map(text).collect()
    }

    /// The model, the permission mode and the directory in force.
    pub fn in_force(&self) -> (&str, &str, &str) {
        self.told
            .iter()
            .find_map(|o| match o {
                Observation::TurnStarted {
                    model,
                    permission_mode,
                    working_dir,
                    ..
                } => Some((
                    model.as_str(),
                    permission_mode.as_str(),
                    working_dir.as_str(),
                )),
                _ => None,
            })
            .expect("a turn tells its start")
    }
}

/// Begins a turn with `prompt`, which is data.
pub async fn begin(session: &mut dyn Session, prompt: &str) {
    let turn = Turn {
        prompt: prompt.to_owned(),
        slash_commands: false,
    };
    within("the begin", session.begin(turn))
        .await
        .expect("a turn begins");
}

/// Observations until `wanted` is true of one, that one included.
pub async fn until(
    session: &mut dyn Session,
    what: &str,
    wanted: impl Fn(&Observation) -> bool,
) -> Vec<Observation> {
    let mut told = Vec::new();
    within(what, async {
        loop {
            let observation = session.next().await;
            let found = wanted(&observation);
            let lost = matches!(
                observation,
                Observation::ProcessEnded(_) | Observation::Violation(_)
            );
            told.push(observation);
            if found {
                return;
            }
            assert!(!lost, "waiting for {what}: {told:?}");
        }
    })
    .await;
    told
}

/// The rest of a turn under way.
pub async fn finish(session: &mut dyn Session) -> Played {
    let is_end = |o: &Observation| matches!(o, Observation::TurnEnded(_));
    let told = until(session, "the end of the turn", is_end).await;
    let end = match told.last() {
        Some(Observation::TurnEnded(end)) => (**end).clone(),
        other => panic!("the turn did not end: {other:?}"),
    };
    Played { told, end }
}

/// A whole turn.
pub async fn play(session: &mut dyn Session, prompt: &str) -> Played {
    begin(session, prompt).await;
    finish(session).await
}

/// A whole turn that must succeed.
pub async fn succeed(session: &mut dyn Session, prompt: &str) -> Played {
    let played = play(session, prompt).await;
    assert_eq!(played.end.error, None, "{played:?}");
    played
}

/// Sets `dials`, which must be accepted.
pub async fn dial(session: &mut dyn Session, dials: &Dials) {
    within("the dials", session.dial(dials))
        .await
        .expect("the dials are accepted");
}
