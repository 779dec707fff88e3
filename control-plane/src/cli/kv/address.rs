//! Where a store or a Redis is, as a person writes it.
//!
//! ```text
//! HOST:PORT
//! unix:PATH, or a path with a slash in it
//! redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]      %XX in user and password is that byte
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
    // A password may have an @ or a / in it, what follows may not.
    let (who, rest) = match text.rsplit_once('@') {
        Some((who, rest)) => (Some(who), rest),
        None => (None, text),
    };
    let (place, database) = match rest.split_once('/') {
        Some((place, "")) => (place, None),
        Some((place, number)) => (place, Some(number.parse().map_err(|_| FORMS)?)),
        None => (rest, None),
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
        user: user.map(decoded),
        password: password.map(decoded),
        database,
    })
}

/// As redis-cli and the client libraries read it: `%40` is an @. A % that no two digits follow is one.
fn decoded(text: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, tail @ ..] = rest {
        let byte = match tail {
            [high, low, ..] if *first == b'%' => digit(*high).zip(digit(*low)),
            _ => None,
        };
        (rest, _) = match byte {
            Some((high, low)) => (&tail[2..], out.push(high << 4 | low)),
            None => (tail, out.push(*first)),
        };
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
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
        check("redis://m%65:p%40s%2fs%@a:1/2", "a:1", "me", "p@s/s%", Some(2));
        check("redis://:p/s%4@a", "a:6379", "", "p/s%4", None);
        check("redis://:%ff@a", "a:6379", "", "%ff", None);
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
