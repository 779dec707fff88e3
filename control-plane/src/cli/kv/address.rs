//! Where a store or a Redis is, as a person writes it.
//!
//! ```text
//! HOST:PORT
//! unix:PATH, or a path with a slash in it
//! redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]
//! ```

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub place: Place,
    pub user: Option<String>,
    pub password: Option<String>,
    pub database: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Tcp(String),
    Unix(PathBuf),
}

const REDIS_PORT: &str = "6379";

const FORMS: &str = "write it as HOST:PORT, unix:PATH or redis://[USER:PASSWORD@]HOST:PORT";

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Address, &'static str> {
        let plain = |place| Address { place, user: None, password: None, database: None };
        if let Some(rest) = text.strip_prefix("redis://") {
            return url(rest);
        }
        if let Some(path) = text.strip_prefix("unix:").or(text.contains('/').then_some(text)) {
            return match path {
                "" => Err(FORMS),
                path if path.contains("://") => Err(FORMS),
                path => Ok(plain(Place::Unix(path.into()))),
            };
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(plain(Place::Tcp(text.to_owned())))
            }
            _ => Err(FORMS),
        }
    }
}

/// What follows `redis://`.
fn url(text: &str) -> Result<Address, &'static str> {
    let (rest, database) = match text.split_once('/') {
        Some((rest, "")) => (rest, None),
        Some((rest, number)) => (rest, Some(number.parse().map_err(|_| FORMS)?)),
        None => (text, None),
    };
    // A password may have an @ in it, a host may not.
    let (who, place) = match rest.rsplit_once('@') {
        Some((who, place)) => (Some(who), place),
        None => (None, rest),
    };
    let (user, password) = match who {
        Some(who) => {
            let (user, password) = who.split_once(':').ok_or(FORMS)?;
            (Some(user).filter(|user| !user.is_empty()), Some(password))
        }
        None => (None, None),
    };
    let has_port = place.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let place = match place {
        "" => return Err(FORMS),
        place if has_port => place.to_owned(),
        place if place.contains(':') && !place.ends_with(']') => return Err(FORMS),
        host => format!("{host}:{REDIS_PORT}"),
    };
    Ok(Address {
        place: Place::Tcp(place),
        user: user.map(str::to_owned),
        password: password.map(str::to_owned),
        database,
    })
}

/// Without the password.
impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp(place) => out.write_str(place),
            Place::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_three_forms() {
        let check = |text: &str, place: &str, user: &str, password: &str, database: Option<u64>| {
            let found: Address = text.parse().unwrap();
            let or_none = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            assert_eq!(found.to_string(), place, "{text}");
            assert_eq!((found.user, found.password), (or_none(user), or_none(password)), "{text}");
            assert_eq!(found.database, database, "{text}");
        };
        check("127.0.0.1:7379", "127.0.0.1:7379", "", "", None);
        check("unix:/run/kv", "unix:/run/kv", "", "", None);
        check("./kv.sock", "unix:./kv.sock", "", "", None);
        check("redis://a", "a:6379", "", "", None);
        check("redis://[::1]", "[::1]:6379", "", "", None);
        check("redis://a:1/3", "a:1", "", "", Some(3));
        check("redis://:p@ss@a:1", "a:1", "", "p@ss", None);
        check("redis://me:secret@a:1/", "a:1", "me", "secret", None);
        for text in [
            "",
            "a",
            "a:b",
            ":1",
            "unix:",
            "redis://",
            "redis://a:x",
            "redis://a/x",
            "http://a/",
            "redis://me@a",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
