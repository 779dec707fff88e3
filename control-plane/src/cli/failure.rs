//! What a command that failed says: a sentence and a hint for people, one JSON line for programs.
//!
//! ```text
//!   hawser: no such app (unknown_app, HTTP 404)
//!     hint: `hawser app list` lists the apps (operator's key); --app or HAWSER_APP names one
//!
//!   {"error":{"code":"unknown_app","message":"no such app"}}
//! ```
//!
//! Both go to standard error. The codes are those of the HTTP API and four more: `usage`,
//! `unreachable`, `not_understood`, and `failed` for all the rest.

use std::process::ExitCode;

use clap::error::ErrorKind;
use serde::Serialize;

use super::client::ApiError;
use super::out::Format;

/// A mistake in the command line that only shows when it is acted on. Exit code 2.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub &'static str);

const FAILED: u8 = 1;
const WRONG_COMMAND_LINE: u8 = 2;

#[derive(Debug, PartialEq, Serialize)]
struct Document {
    error: Detail,
}

#[derive(Debug, PartialEq, Serialize)]
struct Detail {
    code: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

/// Says why a command failed.
pub fn report(error: &anyhow::Error, format: Format) -> ExitCode {
    if let Some(Usage(message)) = error.downcast_ref::<Usage>() {
        return match format {
            Format::Json => wrong_command_line((*message).to_owned()),
            Format::Human => {
                // Without the usage of the whole program, which would not help.
                let text = format!("{message}\n\nFor more information, try '--help'.\n");
                let _ = clap::Error::raw(ErrorKind::MissingRequiredArgument, text).print();
                ExitCode::from(WRONG_COMMAND_LINE)
            }
        };
    }
    match format {
        Format::Json => print(detail(error)),
        Format::Human => {
            eprintln!("hawser: {error:#}");
            if let Some(hint) = api_error(error).and_then(hint) {
                eprintln!("  hint: {hint}");
            }
        }
    }
    ExitCode::from(FAILED)
}

/// Says what clap found wrong. Help and the version are answers, not mistakes.
pub fn report_arguments(error: &clap::Error, format: Format) -> ExitCode {
    if !error.use_stderr() || format == Format::Human {
        let _ = error.print();
        return ExitCode::from(if error.use_stderr() { WRONG_COMMAND_LINE } else { 0 });
    }
    let text = error.render().to_string();
    // The first paragraphs say what is wrong; the usage follows.
    let end = text.find("\n\nUsage:").or_else(|| text.find("\n\nFor more")).unwrap_or(text.len());
    let text = text[..end].trim();
    wrong_command_line(text.strip_prefix("error: ").unwrap_or(text).to_owned())
}

fn wrong_command_line(message: String) -> ExitCode {
    print(Detail { code: "usage".to_owned(), message, retry_after_ms: None });
    ExitCode::from(WRONG_COMMAND_LINE)
}

fn print(error: Detail) {
    let text = serde_json::to_string(&Document { error }).expect("texts are valid JSON");
    eprintln!("{text}");
}

fn detail(error: &anyhow::Error) -> Detail {
    let plain = |code: &str| Detail {
        code: code.to_owned(),
        message: format!("{error:#}"),
        retry_after_ms: None,
    };
    match api_error(error) {
        Some(ApiError::Refused { code, message, retry_after_ms, .. }) => {
            Detail { code: code.clone(), message: message.clone(), retry_after_ms: *retry_after_ms }
        }
        Some(ApiError::Unreachable { .. }) => plain("unreachable"),
        Some(ApiError::NotUnderstood { .. }) => plain("not_understood"),
        None => plain("failed"),
    }
}

fn api_error(error: &anyhow::Error) -> Option<&ApiError> {
    error.chain().find_map(|cause| cause.downcast_ref())
}

/// What to do about it, where the sentence does not say so.
fn hint(error: &ApiError) -> Option<String> {
    let hint = match error {
        ApiError::Unreachable { .. } => {
            "is a control node running there? --url or HAWSER_URL names another; `hawser play` \
             starts one"
        }
        ApiError::NotUnderstood { .. } => {
            "--url or HAWSER_URL is to name the API of a control node, its listen_api"
        }
        ApiError::Refused { retry_after_ms: Some(ms), .. } => {
            return Some(format!("the same command may succeed in {ms} ms"));
        }
        ApiError::Refused { code, .. } => match code.as_str() {
            "unauthorized" => {
                "the control node does not know the key; --key or HAWSER_KEY gives another: the \
                 app's, or the operator's for `app` and `status`"
            }
            "forbidden" => {
                "`app` and `status` need the operator's key, other commands that of the app which \
                 --app or HAWSER_APP names"
            }
            "unknown_app" => {
                "`hawser app list` lists the apps (operator's key); --app or HAWSER_APP names one"
            }
            _ => return None,
        },
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: &str, retry_after_ms: Option<u64>) -> ApiError {
        ApiError::Refused { status: 429, code: code.into(), message: "no".into(), retry_after_ms }
    }

    #[test]
    fn the_codes_are_the_apis_and_a_few_more() {
        let url = || "http://x".to_owned();
        let check = |error: anyhow::Error, code: &str, message: &str, retry_after_ms| {
            let (code, message) = (code.to_owned(), message.to_owned());
            assert_eq!(detail(&error), Detail { code, message, retry_after_ms });
        };
        check(refused("inbox_full", Some(9)).into(), "inbox_full", "no", Some(9));
        let wrapped = anyhow::Error::from(refused("forbidden", None)).context("for a reason");
        check(wrapped, "forbidden", "no", None);
        let unreachable = ApiError::Unreachable { url: url(), reason: "gone".into() };
        check(unreachable.into(), "unreachable", "no answer from http://x: gone", None);
        let strange = ApiError::NotUnderstood { url: url(), reason: "HTTP 500".into() };
        assert_eq!(detail(&strange.into()).code, "not_understood");
        check(anyhow::anyhow!("b").context("a"), "failed", "a: b", None);
    }

    #[test]
    fn hints_say_what_to_do() {
        let shown = |error| hint(&error).unwrap_or_default();
        assert!(shown(refused("unauthorized", None)).contains("HAWSER_KEY"));
        assert!(shown(refused("quota_exceeded", Some(250))).contains("250 ms"));
        assert_eq!(hint(&refused("bad_field", None)), None);
    }
}
