//! `serve`: models over HTTP. All of it is in the crate `skipstone-server`.

use crate::exit::Exit;
use crate::model::embedded;

pub(crate) fn run(args: &skipstone_server::Args) -> anyhow::Result<Exit> {
    skipstone_server::run(args, embedded().map(|model| ("open_nsfw", model)))?;
    Ok(Exit::Ok)
}
