//! CHECKPOINT: copies of all data at one moment, by hard links. Redis has no such command.
//!
//! They are of all namespaces and lie on the server's disk, so only those in the first namespace may run it.
//! A name is no path: nobody can make the server write elsewhere than in its own directory.

use super::error::CommandError;
use super::wait::{Flow, Patience};
use super::{Write, is_word, put_help};
use crate::command::error::shown;
use crate::resp::reply::Reply;
use crate::store::checkpoints::Order;
use crate::store::view::View;
use crate::users::user::is_name;

/// It is done by a thread of its own, which may take a second.
pub fn checkpoint(write: &mut Write<'_, '_>, reply: &mut Reply) -> Result<Flow, CommandError> {
    if write.overlay.selected().namespace != 0 {
        return Err(CommandError::DeniedCommand("checkpoint"));
    }
    let order = match &write.args[1..] {
        [what, name] if is_word(what, "add") => Order::Add(checked(name)?),
        [what, name] if is_word(what, "del") => Order::Del(checked(name)?),
        [what] if is_word(what, "list") => Order::List,
        [what] if is_word(what, "help") => {
            help(reply);
            return Ok(Flow::Answered);
        }
        [what, ..] => return Err(CommandError::SubcommandSyntax(shown(what), "CHECKPOINT")),
        [] => return Err(CommandError::Arguments("checkpoint")),
    };
    match write.patience {
        Patience::Never => Err(CommandError::Checkpoint(
            "CHECKPOINT is not for transactions, which it would hold up",
        )),
        Patience::Waits | Patience::Woken(_) => Ok(Flow::HandsOver(order)),
    }
}

fn checked(name: &[u8]) -> Result<String, CommandError> {
    let wrong = CommandError::Checkpoint("a name has 1 to 64 letters, digits, - and _ only");
    is_name(name).map(str::to_string).ok_or(wrong)
}

fn help(reply: &mut Reply) {
    put_help(
        reply,
        "CHECKPOINT",
        &[
            "ADD <name>",
            "    Make a copy of all data at this moment in DIR/checkpoints/NAME, by hard links.",
            "DEL <name>",
            "    Delete one, and with it the files that nothing else needs.",
            "LIST",
            "    The names of all checkpoints.",
        ],
    );
}
