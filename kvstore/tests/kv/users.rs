//! Users, what they may do, and namespaces.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use hawser_kv::Config;
use hawser_kv::config::Durability;

use crate::differential::Oracle;
use crate::support::{Client, TempDir, Value, config, start, stop};

fn ok() -> Value {
    Value::Simple("OK".into())
}

fn denied(name: &str) -> Value {
    Value::Error(format!("NOPERM this user has no permissions to run the '{name}' command"))
}

fn denied_key() -> Value {
    let text = "NOPERM this user has no permissions to access one of the keys used as arguments";
    Value::Error(text.into())
}

/// Sets up the same users here and at Redis, and asks both the same. What a user may do is asked with
/// ACL DRYRUN, which runs nothing.
#[test]
fn rules_mean_what_they_mean_to_redis() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let oracle = Oracle::start();
    let mut both = [Client::unix(&config.unix), oracle.connect()];
    let mut same = |command: &str| {
        let [ours, theirs] = &mut both;
        let (ours, theirs) = (ours.run(command), theirs.run(command));
        assert_eq!(ours, theirs, "left is ours: {command}");
    };
    let rules = [
        "on >secret ~cache:* +@read +set",
        "reset +@all -@dangerous ~*",
        "reset +@all -@write +get -get %R~r:* %W~w:* %RW~b:*",
        "reset -@all +config|get +client +select|0 ~*",
        "reset allcommands allkeys nopass on",
        "nocommands +@stream -xadd +xinfo|groups ~s* &news:* &jobs",
        "+@pubsub &* ~*",
        "resetchannels &a*",
    ];
    let tried = [
        "get cache:1",
        "get other",
        "set cache:1 x",
        "set r:1 x",
        "set w:1 x",
        "set w:1 x GET",
        "get r:1",
        "get w:1",
        "rename r:1 w:1",
        "rename b:1 b:2",
        "mget cache:1 cache:2",
        "mget r:1 x",
        "config|get",
        "config get x",
        "config set x y",
        "client id",
        "client kill x",
        "select 0",
        "select 1",
        "flushall",
        "keys *",
        "xadd s * f v",
        "xlen s",
        "xread streams s t 0 0",
        "xreadgroup group g c streams s1 s2 > >",
        "xinfo groups s",
        "xinfo stream s",
        "ping",
        "get",
        "nosuch",
    ];
    for rule in rules {
        same(&format!("ACL SETUSER ann {rule}"));
        for command in tried {
            same(&format!("ACL DRYRUN ann {command}"));
        }
    }
    for wrong in [
        "ACL SETUSER ann nonsense",
        "ACL SETUSER ann +nosuch",
        "ACL SETUSER ann +@nosuch",
        "ACL SETUSER ann -get|x",
        "ACL SETUSER ann +config|nosuch",
        "ACL SETUSER ann +config|get|x",
        "ACL SETUSER ann resetkeys ~* ~b",
        "ACL SETUSER ann allchannels &b",
        "ACL SETUSER ann #zz",
        "ACL SETUSER ann <nothing",
        "ACL SETUSER ann %X~a",
        "ACL DRYRUN nobody get a",
        "ACL GETUSER nobody",
        "ACL DELUSER default",
        "ACL CAT nosuch",
        "ACL CAT",
        "ACL GENPASS 0",
        "ACL GENPASS 4097",
        "ACL GENPASS x",
        "ACL NOSUCH",
        "ACL SETUSER",
        "ACL LOG x",
        "ACL WHOAMI",
        "ACL USERS",
        "ACL DELUSER ann nobody",
        "ACL USERS",
        "ACL LOG RESET",
        "AUTH nobody x",
        "AUTH default anything",
        "AUTH x",
    ] {
        same(wrong);
    }
    stop(server);
}

/// Its order of commands is Redis's own; the flags are the same.
#[test]
fn a_user_has_the_flags_that_redis_gives_it() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let oracle = Oracle::start();
    let mut both = [Client::unix(&config.unix), oracle.connect()];
    let rules = ["on", "nopass", "sanitize-payload", "skip-sanitize-payload", "off", "reset"];
    for rule in rules {
        for user in ["default", "ann"] {
            let [ours, theirs] = both.each_mut().map(|client| {
                client.run(&format!("ACL SETUSER ann {rule}"));
                let facts = client.run(&format!("ACL GETUSER {user}"));
                let Value::Array(facts) = facts else { panic!("no user: {facts:?}") };
                facts[1].clone()
            });
            assert_eq!(ours, theirs, "left is ours: {user}, after {rule}");
        }
    }
    stop(server);
}

#[test]
fn a_user_is_held_to_its_rules() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut admin = Client::unix(&config.unix);
    let mut ann = Client::unix(&config.unix);
    assert_eq!(admin.run("ACL SETUSER ann on >secret ~a:* +@read +set +multi +exec"), ok());
    let wrong = "WRONGPASS invalid username-password pair or user is disabled.";
    assert_eq!(ann.run("AUTH ann wrong"), Value::Error(wrong.into()));
    assert_eq!(ann.run("AUTH ann secret"), ok());
    assert_eq!(ann.run("SET a:1 x"), ok());
    assert_eq!(ann.run("SET b:1 x"), denied_key());
    assert_eq!(ann.run("DEL a:1"), denied("del"));
    assert_eq!(ann.run("ACL WHOAMI"), denied("acl|whoami"));
    assert_eq!(ann.run("MULTI"), ok());
    assert_eq!(ann.run("DEL a:1"), denied("del"));
    let discarded = "EXECABORT Transaction discarded because of previous errors.";
    assert_eq!(ann.run("EXEC"), Value::Error(discarded.into()));

    // A change reaches a connection that is there.
    assert_eq!(admin.run("ACL SETUSER ann +acl|whoami"), ok());
    assert_eq!(ann.run("ACL WHOAMI"), Value::Bulk(b"ann".to_vec()));
    assert_eq!(admin.run("ACL SETUSER ann resetkeys"), ok());
    assert_eq!(ann.run("GET a:1"), denied_key());

    let Value::Array(log) = admin.run("ACL LOG") else { panic!("no log") };
    let Value::Array(newest) = &log[0] else { panic!("no entry") };
    let texts: Vec<&Value> = newest.iter().skip(1).step_by(2).collect();
    assert_eq!(
        texts[1..5].iter().map(|text| text.text()).collect::<Vec<_>>(),
        ["key", "toplevel", "a:1", "ann"]
    );
    // The same twice is one entry.
    ann.run("GET a:1");
    let Value::Array(after) = admin.run("ACL LOG") else { panic!("no log") };
    assert_eq!(after.len(), log.len());
    let Value::Array(newest) = &after[0] else { panic!("no entry") };
    assert_eq!(newest[1], Value::Integer(2));

    assert_eq!(admin.run("ACL DELUSER ann"), Value::Integer(1));
    ann.try_send(&crate::support::encode(&["PING"]));
    assert_eq!(ann.try_receive(), None, "its connection is closed");
    stop(server);
}

#[test]
fn users_come_from_a_file_and_go_there() {
    let dir = TempDir::new();
    let file = dir.join("users");
    fs::write(&file, "# people\nuser ann on >secret ~* +@all\nuser default off\n")
        .expect("written");
    let mut config = config(&dir);
    config.users_file = file.clone();
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    let first = "NOAUTH Authentication required.";
    assert_eq!(client.run("PING"), Value::Error(first.into()));
    assert_eq!(client.run("AUTH ann secret"), ok());
    assert_eq!(client.run("ACL SETUSER bob on >word ~b* resetchannels +get"), ok());
    assert_eq!(client.run("ACL SAVE"), ok());
    let text = fs::read_to_string(&file).expect("readable");
    assert!(!text.contains("secret") && !text.contains("word "), "{text}");
    stop(server);

    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    assert_eq!(client.run("AUTH bob word"), ok());
    assert_eq!(client.run("GET b1"), Value::Null);
    assert_eq!(client.run("GET a1"), denied_key());
    let mut ann = Client::unix(&config.unix);
    assert_eq!(ann.run("AUTH ann secret"), ok());
    // A file that is wrong changes nothing, and says where it is.
    fs::write(&file, "user ann on\nuser carl nonsense\n").expect("written");
    let error = ann.run("ACL LOAD").text();
    assert!(error.contains("line 2") && error.contains("nonsense"), "{error}");
    assert_eq!(client.run("GET b1"), Value::Null);
    fs::write(&file, "user ann on >secret ~* +@all\n").expect("written");
    assert_eq!(ann.run("ACL LOAD"), ok());
    assert_eq!(
        ann.run("ACL USERS").clone(),
        Value::Array(vec![Value::Bulk(b"ann".to_vec()), Value::Bulk(b"default".to_vec()),])
    );
    stop(server);
}

#[test]
fn a_user_has_a_limit_of_patterns() {
    use hawser_kv::users::user::{LISTED_MAX, RuleError, User};
    let mut user = User::new("ann");
    for number in 0..LISTED_MAX {
        assert_eq!(user.apply(format!("~{number}").as_bytes()), Ok(()));
    }
    assert_eq!(user.apply(b"~one-more"), Err(RuleError::TooMany));
}

/// A namespace whose writes nobody waits for costs no sync, and those of others do as before.
#[test]
fn a_namespace_chooses_what_its_writes_survive() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut admin = Client::unix(&config.unix);
    assert_eq!(admin.run("NAMESPACE ADD red tulip"), ok());
    assert_eq!(admin.run("NAMESPACE DURABILITY red"), Value::Bulk(b"default".to_vec()));
    for wrong in ["red sometimes", "nosuch none", "nosuch"] {
        assert!(admin.run(&format!("NAMESPACE DURABILITY {wrong}")).is_error(), "{wrong}");
    }
    let mut red = Client::unix(&config.unix);
    assert_eq!(red.run("AUTH tulip"), ok());
    let mut syncs_of = |admin: &mut Client, durability: &str| {
        assert_eq!(admin.run(&format!("NAMESPACE DURABILITY red {durability}")), ok());
        let before = server.metrics().syncs;
        (0..20).for_each(|_| assert_eq!(red.run("SET a 1"), ok()));
        server.metrics().syncs - before
    };
    assert_eq!(syncs_of(&mut admin, "always"), 20);
    assert_eq!(syncs_of(&mut admin, "none"), 0);
    assert_eq!(syncs_of(&mut admin, "default"), 20, "the server's is always");
    assert_eq!(syncs_of(&mut admin, "none"), 0);
    let before = server.metrics().syncs;
    assert_eq!(admin.run("SET a 1"), ok());
    assert_eq!(server.metrics().syncs - before, 1, "it is the namespace's alone");
    assert!(syncs_of(&mut admin, "everysec") < 20, "only the clock's");
    let before = server.metrics().syncs;
    assert_eq!(red.run("SET a 2"), ok());
    crate::support::until("synced by the clock", || {
        (server.metrics().syncs > before).then_some(())
    });
    stop(server);

    // It is data like the token.
    let server = start(&config);
    let mut admin = Client::unix(&config.unix);
    assert_eq!(admin.run("NAMESPACE DURABILITY red"), Value::Bulk(b"everysec".to_vec()));
    stop(server);
}

#[test]
fn a_token_opens_its_namespace_only() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut admin = Client::unix(&config.unix);
    assert_eq!(admin.run("NAMESPACE ADD red tulip"), ok());
    assert_eq!(admin.run("NAMESPACE ADD blue iris"), ok());
    for wrong in ["ADD red x", "ADD green tulip", "ADD b@d x", "SET nosuch x", "DEL nosuch"] {
        assert!(admin.run(&format!("NAMESPACE {wrong}")).is_error(), "{wrong}");
    }
    let mut red = Client::unix(&config.unix);
    let mut blue = Client::unix(&config.unix);
    assert_eq!(red.run("AUTH tulip"), ok());
    assert_eq!(blue.run("AUTH blue iris"), ok());
    let mut all = [admin, red, blue];
    for (number, client) in all.iter_mut().enumerate() {
        assert_eq!(client.run(&format!("SET a {number}")), ok());
        assert_eq!(client.run("HSET h f 1"), Value::Integer(1));
        assert_eq!(client.run("SELECT 15"), ok());
        assert_eq!(client.run(&format!("SET z {number}")), ok());
        assert_eq!(client.run("SELECT 0"), ok());
    }
    for (number, client) in all.iter_mut().enumerate() {
        assert_eq!(client.run("GET a"), Value::Bulk(number.to_string().into()));
        assert_eq!(client.run("DBSIZE"), Value::Integer(2));
    }
    let [admin, red, blue] = &mut all;
    for admins in ["NAMESPACE LIST", "CONFIG GET x", "ACL USERS", "SLOWLOG LEN"] {
        assert!(red.run(admins).text().starts_with("NOPERM"), "{admins}");
    }
    assert_eq!(red.run("FLUSHALL"), ok());
    assert_eq!(red.run("DBSIZE"), Value::Integer(0));
    assert_eq!(blue.run("DBSIZE"), Value::Integer(2));
    assert_eq!(blue.run("SWAPDB 0 15"), ok());
    assert_eq!(blue.run("GET z"), Value::Bulk(b"2".to_vec()));
    assert_eq!(admin.run("GET a"), Value::Bulk(b"0".to_vec()));
    stop(server);

    // All of it is data.
    let server = start(&config);
    let mut admin = Client::unix(&config.unix);
    let mut blue = Client::unix(&config.unix);
    assert_eq!(blue.run("AUTH iris"), ok());
    assert_eq!(blue.run("GET z"), Value::Bulk(b"2".to_vec()));
    assert_eq!(admin.run("NAMESPACE SET red rose"), ok());
    assert!(Client::unix(&config.unix).run("AUTH tulip").is_error());
    assert_eq!(Client::unix(&config.unix).run("AUTH rose"), ok());
    assert_eq!(admin.run("NAMESPACE DEL blue"), ok());
    blue.try_send(&crate::support::encode(&["GET", "z"]));
    assert_eq!(blue.try_receive(), None, "its connection is closed");
    // A new one of the same name is another one.
    assert_eq!(admin.run("NAMESPACE ADD blue iris"), ok());
    let mut blue = Client::unix(&config.unix);
    assert_eq!(blue.run("AUTH iris"), ok());
    assert_eq!(blue.run("DBSIZE"), Value::Integer(0));
    stop(server);
}

#[test]
fn databases_are_apart() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    let mut watcher = Client::unix(&config.unix);
    assert_eq!(client.run("SELECT 3"), ok());
    assert_eq!(client.run("SET a three"), ok());
    assert_eq!(watcher.run("SELECT 3"), ok());
    assert_eq!(watcher.run("WATCH a"), ok());
    assert_eq!(watcher.run("MULTI"), ok());
    // The same key of another database is another key.
    assert_eq!(client.run("SELECT 0"), ok());
    assert_eq!(client.run("SET a zero"), ok());
    assert_eq!(watcher.run("GET a"), Value::Simple("QUEUED".into()));
    assert_eq!(watcher.run("SELECT 0"), Value::Simple("QUEUED".into()));
    assert_eq!(watcher.run("GET a"), Value::Simple("QUEUED".into()));
    let bulk = |text: &str| Value::Bulk(text.into());
    assert_eq!(watcher.run("EXEC"), Value::Array(vec![bulk("three"), ok(), bulk("zero")]));
    // What a transaction selects stays selected.
    assert_eq!(watcher.run("GET a"), bulk("zero"));
    // A swap changes what is watched.
    assert_eq!(watcher.run("WATCH a"), ok());
    assert_eq!(client.run("SWAPDB 0 3"), ok());
    assert_eq!(watcher.run("MULTI"), ok());
    assert_eq!(watcher.run("GET a"), Value::Simple("QUEUED".into()));
    assert_eq!(watcher.run("EXEC"), Value::NullArray);
    assert_eq!(client.run("GET a"), bulk("three"));
    assert_eq!(client.run("FLUSHDB"), ok());
    assert_eq!(client.run("GET a"), Value::Null);
    stop(server);
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    assert_eq!(client.run("GET a"), Value::Null);
    assert_eq!(client.run("SELECT 3"), ok());
    assert_eq!(client.run("GET a"), bulk("zero"));
    stop(server);
}

/// A transaction that exchanges databases is seen whole, also by who only reads, whatever is pipelined.
#[test]
fn a_swap_is_seen_whole() {
    const ROUNDS: usize = 3_000;
    let dir = TempDir::new();
    let config = Config { durability: Durability::None, ..config(&dir) };
    let server = start(&config);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // `x` is only ever in the first database, wherever that is.
        for (look, missing) in [("GET x", "$-1\r\n"), ("MGET x y", "*2\r\n$-1\r\n$-1\r\n")] {
            let (config, is_over) = (&config, &is_over);
            scope.spawn(move || {
                let mut stream = UnixStream::connect(&config.unix).expect("it listens");
                let command = format!("{look}\r\n").repeat(1000);
                let mut answers = vec![0; missing.len() * 1000];
                stream.write_all(b"SELECT 1\r\n").expect("there is room");
                stream.read_exact(&mut answers[.."+OK\r\n".len()]).expect("an answer");
                while !is_over.load(SeqCst) {
                    stream.write_all(command.as_bytes()).expect("there is room");
                    stream.read_exact(&mut answers).expect("the server answers");
                    let found = String::from_utf8_lossy(&answers).replace(missing, "");
                    if !found.is_empty() {
                        is_over.store(true, SeqCst);
                        panic!("{look} found what never was there: {found:?}");
                    }
                }
            });
        }
        let mut writer = Client::unix(&config.unix);
        let round =
            "MULTI\r\nSWAPDB 0 1\r\nSET x 1\r\nEXEC\r\nMULTI\r\nDEL x\r\nSWAPDB 0 1\r\nEXEC\r\n";
        for _ in 0..ROUNDS {
            writer.send(round.as_bytes());
            (0..8).for_each(|_| assert!(!writer.receive().is_error()));
        }
        is_over.store(true, SeqCst);
    });
    stop(server);
}

/// What a user may no longer do when a transaction is executed is not done; the rest is.
#[test]
fn a_transaction_asks_for_permission_again() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let oracle = Oracle::start();
    let run = |admin: &mut Client, user: &mut Client| {
        admin.run("ACL SETUSER bob on >pw +@all ~* &*");
        let mut answers = vec![user.run("AUTH bob pw")];
        for command in
            ["MULTI", "SET a 1", "SET b 2", "INCR a", "PUBLISH c m", "GET a", "ACL WHOAMI"]
        {
            answers.push(user.run(command));
        }
        // A SELECT that is not done selects nothing.
        answers.extend(["SELECT 1", "INCRBY a 5"].map(|command| user.run(command)));
        let change = "ACL SETUSER bob -incr resetkeys ~a resetchannels -acl|whoami -select";
        answers.push(admin.run(change));
        answers.push(user.run("EXEC"));
        answers.push(user.run("GET a"));
        answers.push(admin.run("MGET a b"));
        let Value::Array(denials) = admin.run("ACL LOG") else { panic!("no denials") };
        for denial in denials {
            let Value::Array(fields) = denial else { panic!("no denial") };
            answers.extend(fields[..8].iter().cloned());
        }
        answers
    };
    let mut clients = [(); 2].map(|()| Client::unix(&config.unix));
    let [admin, user] = &mut clients;
    let ours = run(admin, user);
    assert!(format!("{ours:?}").contains("no permission to touch the specified keys"), "{ours:?}");
    assert_eq!(ours, run(&mut oracle.connect(), &mut oracle.connect()));
    stop(server);
}
