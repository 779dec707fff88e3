//! What the server says about its commands, held to what Redis says about them.

use std::collections::BTreeSet;

use hawser_kv::command::catalogue;
use hawser_kv::command::left_out::{LEFT_OUT, reason};
use hawser_kv::command::table;

use crate::differential::Oracle;
use crate::support::{Client, TempDir, Value, config, start, stop};

const CATALOGUE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/command/catalogue.txt");

fn items(value: &Value) -> &[Value] {
    let Value::Array(items) = value else { panic!("no array: {value:?}") };
    items
}

/// The value behind a name in a flat list of names and values.
fn field<'a>(pairs: &'a Value, name: &str) -> &'a Value {
    let found = items(pairs).chunks(2).find(|pair| pair[0].text() == name);
    &found.unwrap_or_else(|| panic!("no {name} in {pairs:?}"))[1]
}

fn shown(value: &Value) -> String {
    match value {
        Value::Integer(number) => number.to_string(),
        other => other.text(),
    }
}

fn joined(values: &Value, between: &str) -> String {
    let words: Vec<String> = items(values).iter().map(shown).collect();
    if words.is_empty() { "-".to_string() } else { words.join(between) }
}

fn search(value: &Value) -> String {
    let spec = items(field(value, "spec")).chunks(2).map(|pair| shown(&pair[1]));
    let words: Vec<String> = [shown(field(value, "type"))].into_iter().chain(spec).collect();
    words.join(":")
}

fn key_specs(specs: &Value) -> String {
    let line = |spec: &Value| {
        let flags = joined(field(spec, "flags"), ",");
        format!(
            "{flags}@{}/{}",
            search(field(spec, "begin_search")),
            search(field(spec, "find_keys"))
        )
    };
    let lines: Vec<String> = items(specs).iter().map(line).collect();
    if lines.is_empty() { "-".to_string() } else { lines.join(" ") }
}

/// The lines of one command of an answer of COMMAND, and of its subcommands.
fn lines(client: &mut Client, command: &Value, found: &mut Vec<String>) {
    let [name, arity, flags, first, last, step, categories, tips, specs, subcommands] =
        items(command)
    else {
        panic!("not ten fields: {command:?}")
    };
    let name = name.text();
    let docs = client.run(&format!("COMMAND DOCS {name}"));
    let docs = &items(&docs)[1];
    let categories = joined(categories, ",").replace('@', "");
    let fields = [
        name.clone(),
        shown(arity),
        joined(flags, ","),
        [first, last, step].map(shown).join(","),
        categories,
        joined(tips, ","),
        key_specs(specs),
        shown(field(docs, "since")),
        shown(field(docs, "group")),
    ];
    found.push(fields.join("\t"));
    items(subcommands).iter().for_each(|command| lines(client, command, found));
}

#[test]
fn the_catalogue_is_that_of_redis() {
    let oracle = Oracle::start();
    let mut client = oracle.connect();
    let mut found = Vec::new();
    let all = client.run("COMMAND");
    items(&all).iter().for_each(|command| lines(&mut client, command, &mut found));
    found.sort();
    let golden = std::fs::read_to_string(CATALOGUE).expect("the catalogue");
    let (head, known): (Vec<&str>, Vec<&str>) =
        golden.lines().partition(|line| line.starts_with('#'));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let text = [head.join("\n"), found.join("\n"), String::new()].join("\n");
        return std::fs::write(CATALOGUE, text).expect("written");
    }
    assert_eq!(known, found, "UPDATE_GOLDEN=1 rewrites it");
}

/// The list of what is left out may only shrink: whatever is in neither fails here.
#[test]
fn every_command_of_redis_is_here_or_left_out() {
    let oracle = Oracle::start();
    let listed = oracle.connect().run("COMMAND LIST");
    let theirs: BTreeSet<String> = items(&listed).iter().map(Value::text).collect();
    let left_out: BTreeSet<String> =
        LEFT_OUT.iter().flat_map(|(_, names)| *names).map(|name| name.to_string()).collect();
    for name in &left_out {
        assert!(theirs.contains(name), "{name} is no command of Redis");
        let facts = catalogue::find(name.as_bytes()).expect("it is in the catalogue");
        assert!(!table::is_offered(facts), "{name} is left out and offered");
    }
    for name in &theirs {
        let facts = catalogue::find(name.as_bytes()).expect("it is in the catalogue");
        let container = name.split('|').next().expect("a name").to_string();
        let is_out = left_out.contains(name) || left_out.contains(&container);
        assert_ne!(table::is_offered(facts), is_out, "{name}");
    }
    let own = ["checkpoint", "namespace"];
    for command in table::COMMANDS {
        let is_known = theirs.contains(command.name) || own.contains(&command.name);
        assert!(is_known, "{} is a command of nobody", command.name);
        let facts = catalogue::find(command.name.as_bytes()).expect("it is in the catalogue");
        assert_eq!(command.arity, facts.arity, "{}", command.name);
        let keys = [command.keys.0, command.keys.1, command.keys.2].map(i32::from);
        let is_known = |facts: &catalogue::Facts| facts.first_last_step == keys;
        let is_of_subcommand = facts.subcommands().iter().any(is_known);
        // Commands about the connection have no keys in the table; WATCH finds its own.
        let is_about_connection = matches!(command.access, table::Access::Session(_));
        let is_right = is_known(facts) || is_of_subcommand || is_about_connection;
        assert!(is_right, "{}: keys at {keys:?}", command.name);
    }
}

#[test]
fn what_is_left_out_says_why() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    for (why, names) in LEFT_OUT {
        for name in *names {
            let words: Vec<&str> = name.split('|').chain(["a", "b", "c"]).collect();
            let container = words[0];
            let is_whole = reason(container).is_some_and(|_| container != *name);
            let (name, why) =
                if is_whole { (container, reason(container)) } else { (*name, Some(*why)) };
            let why = why.expect("it is left out");
            let answer = client.call(&words);
            let text =
                format!("ERR unknown command '{name}': this server leaves it out, since {why}");
            assert_eq!(answer, Value::Error(text));
        }
    }
    stop(server);
}

/// Takes out what is not repeated here: prose, and subcommands that are left out.
fn comparable(command: &Value) -> Value {
    let Value::Array(mut fields) = command.clone() else { return command.clone() };
    let without_notes = |spec: &Value| {
        let pairs = items(spec).chunks(2).filter(|pair| pair[0].text() != "notes");
        Value::Array(pairs.flatten().cloned().collect())
    };
    fields[8] = Value::Array(items(&fields[8]).iter().map(without_notes).collect());
    let is_here = |command: &&Value| {
        let name = items(command)[0].text();
        table::is_offered(catalogue::find(name.as_bytes()).expect("it is in the catalogue"))
    };
    let mut subcommands: Vec<Value> =
        items(&fields[9]).iter().filter(is_here).map(comparable).collect();
    subcommands.sort();
    fields[9] = Value::Array(subcommands);
    Value::Array(fields)
}

/// In the new protocol, which has more types, the fields of a command are of Redis's.
#[test]
fn command_has_the_types_that_redis_gives() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let oracle = Oracle::start();
    let (mut ours, mut theirs) = (Client::unix(&config.unix), oracle.connect());
    let kinds = |answer: &Value| -> Vec<_> {
        items(&items(answer)[0]).iter().map(std::mem::discriminant).collect()
    };
    ours.run("HELLO 3");
    theirs.run("HELLO 3");
    for name in ["get", "xgroup", "xgroup|create", "ping", "zunion", "client"] {
        let ask = format!("COMMAND INFO {name}");
        let (ours, theirs) = (ours.run(&ask), theirs.run(&ask));
        assert_eq!(kinds(&ours), kinds(&theirs), "{name}: {ours:?} {theirs:?}");
    }
    stop(server);
}

#[test]
fn command_answers_as_redis_does() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut ours = Client::unix(&config.unix);
    let oracle = Oracle::start();
    let mut theirs = oracle.connect();
    let offered = catalogue::all().iter().filter(|facts| table::is_offered(facts));
    for facts in offered.filter(|facts| !["checkpoint", "namespace"].contains(&facts.name)) {
        let ask = format!("COMMAND INFO {}", facts.name);
        let [ours, theirs] = [ours.run(&ask), theirs.run(&ask)];
        assert_eq!(comparable(&items(&ours)[0]), comparable(&items(&theirs)[0]), "{ask}");
    }
    for ask in [
        "COMMAND INFO nosuch geoadd1",
        "COMMAND GETKEYS GET a",
        "COMMAND GETKEYS MSET a 1 b 2 c 3",
        "COMMAND GETKEYS XREADGROUP GROUP g c COUNT 2 STREAMS a b > >",
        "COMMAND GETKEYS XREAD BLOCK 0 STREAMS a b 0 0",
        "COMMAND GETKEYS XREAD COUNT 2 a b",
        "COMMAND GETKEYS XINFO STREAM k",
        "COMMAND GETKEYSANDFLAGS SET a 1",
        "COMMAND GETKEYSANDFLAGS SET a 1 EX 5 GET",
        "COMMAND GETKEYSANDFLAGS RENAME a b",
        "COMMAND GETKEYSANDFLAGS DEL a b c",
        "COMMAND GETKEYS PING",
        "COMMAND GETKEYS NOSUCH a",
        "COMMAND GETKEYS GET",
        "COMMAND GETKEYS GET a b",
        "COMMAND GETKEYS",
        "COMMAND LIST FILTERBY MODULE x",
        "COMMAND LIST FILTERBY NOPE x",
        "COMMAND LIST x",
        "COMMAND NOPE",
        "COMMAND COUNT x",
    ] {
        assert_eq!(ours.run(ask), theirs.run(ask), "{ask}");
    }
    for ask in ["COMMAND LIST FILTERBY PATTERN x*", "COMMAND LIST FILTERBY ACLCAT stream"] {
        let sorted = |value: Value| {
            let mut names: Vec<String> = items(&value).iter().map(Value::text).collect();
            names.sort();
            names
        };
        assert_eq!(sorted(ours.run(ask)), sorted(theirs.run(ask)), "{ask}");
    }
    stop(server);
}
