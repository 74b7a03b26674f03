//! d
#[derive(clap::Args)]
pub(super) struct DemoArgs {}
pub(super) async fn run(_: DemoArgs) -> Result<(), super::failure::Failure> {
    Ok(())
}
