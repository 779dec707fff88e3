//! The API's description, made from the code and kept beside it as `openapi.json`.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "hawser",
        description = "Push messages to devices that hold long connections. Accepted means durable.",
    ),
    paths(
        super::apps::create,
        super::apps::list,
        super::messages::push,
        super::messages::push_batch,
        super::messages::show,
        super::devices::ticket,
        super::devices::show,
        super::devices::addresses,
        super::pages::status,
        super::pages::openapi,
        super::pages::metrics,
        super::pages::health,
    ),
    modifiers(&Bearer),
    security(("key" = [])),
)]
struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An app's API key, or the operator's key"))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("key", SecurityScheme::Http(bearer));
    }
}

/// As JSON, with a newline at its end.
pub fn document() -> String {
    let mut text = Document::openapi().to_pretty_json().expect("the document is plain data");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `UPDATE_GOLDEN=1` rewrites the file after an intended change.
    #[test]
    fn golden_openapi_document() {
        let path = "openapi.json";
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, document()).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(kept == document(), "openapi.json differs: run `make golden` and read the change");
    }
}
