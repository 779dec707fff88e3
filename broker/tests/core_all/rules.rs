//! Each rule as a script: what happens, and exactly what the core does about it. `*`: anything.

use hawser_broker::core::CoreConfig;

use crate::stage::Stage;

pub struct Rule {
    pub name: &'static str,
    pub steps: &'static [(&'static str, &'static str)],
}

pub fn config() -> CoreConfig {
    CoreConfig {
        slots_max: 64,
        connections_max: 64,
        links: 2,
        retry_after_ms: 700,
        drain_per_s: 10,
        redirect: vec!["b.example:7400".into()],
        topics_max: 4,
        fanout_budget: 1000,
        announce_budget: 100,
        ..CoreConfig::default()
    }
}

/// Runs the steps; the error is the step that differs.
pub fn check(rule: &Rule, config: CoreConfig) -> Result<(), String> {
    let mut stage = Stage::new(config);
    for (input, expect) in rule.steps {
        let done = stage.run(input);
        if *expect != "*" && done != *expect {
            return Err(format!("{}: {input}\n  does: {done}\n  not:  {expect}\n", rule.name));
        }
    }
    Ok(())
}

#[test]
fn every_rule_holds() {
    let broken: String = RULES.iter().filter_map(|rule| check(rule, config()).err()).collect();
    assert!(broken.is_empty(), "{broken}");
}

macro_rules! rules {
    ($($name:literal { $($input:literal => $expect:literal,)* })*) => {
        pub const RULES: &[Rule] =
            &[$(Rule { name: $name, steps: &[$(($input, $expect),)*] },)*];
    };
}

rules! {
    "a connect is welcomed, announced on every link, and pulls over the first" {
        "up 0; up 1" => "",
        "start 0 anna inbox=5" =>
            "0:start; 0<welcome 180s; L0>announce 0=5; L0>pull 0@5; L1>announce 0=5",
        "entries 0 5" => "",
        "gcursor 10" => "0<caught group 10",
        "gcursor 10" => "",
        "start 1 ben" => "1:start; 1<welcome 180s group=10; L0>announce 1=0; L0>pull 1@0; L1>announce 1=0",
        "deliver 0 6 hello" => "0<push 6 hello",
    }
    "without a link a device connects, and is announced and pulled for later" {
        "start 0 anna inbox=5" => "0:start; 0<welcome 180s",
        "ack 0 5" => "",
        "up 1" => "L1>announce 0=5; L1>pull 0@5",
        "via entries 0 7 6=a 7=b" => "0<push 6 a; 0<push 7 b; 0<caught inbox 7",
        "up 0" => "L0>announce 0=5; L0>pull 0@5",
        "entries 0 7 6=a 7=b" => "",
        "ack 0 7" => "L0>ack 7",
    }
    "the next entry is pushed at once, others wait" {
        "up 0; start 0 anna inbox=5; entries 0 5" => "*",
        "deliver 0 6 a" => "0<push 6 a",
        "deliver 0 6 a" => "",
        "deliver 0 5 a" => "",
        "deliver 0 8 c" => "0<notice inbox 8",
        "deliver 0 7 b" => "",
        "deliver 0 9 d" => "",
        "pull 0 inbox 6" => "L0>pull 0@6",
        "deliver 0 10 e" => "",
        "entries 0 9 7=b 8=c 9=d" =>
            "0<push 7 b; 0<push 8 c; 0<push 9 d; 0<caught inbox 9; L0>pull 0@6",
        "entries 0 10 7=b 8=c 9=d 10=e" => "0<push 10 e; 0<caught inbox 10",
        "deliver 0 11 f" => "0<push 11 f",
    }
    "a body that is missing or large waits" {
        "up 0; start 0 anna; entries 0 0" => "*",
        "deliver 0 1 ?" => "0<notice inbox 1",
        "pull 0 inbox 0; entries 0 1 1=x" => "L0>pull 0@0; 0<push 1 x; 0<caught inbox 1",
        "deliver 0 2 large" => "0<notice inbox 2",
        "pull 0 inbox 1; entries 0 2 2=large" =>
            "L0>pull 0@1; 0<push 2 (4097 bytes); 0<caught inbox 2",
    }
    "during a pull nothing is pushed and nobody is told" {
        "up 0; start 0 anna" => "*",
        "deliver 0 1 a" => "",
        "entries 0 0" => "L0>pull 0@0",
        "entries 0 1 1=a" => "0<push 1 a; 0<caught inbox 1",
        "deliver 0 2 b" => "0<push 2 b",
    }
    "a pull that an outstanding one answers goes out once" {
        "up 0; start 0 anna" => "*",
        "pull 0 inbox 0" => "",
        "entries 0 0" => "0<caught inbox 0",
        "pull 0 inbox 0" => "L0>pull 0@0",
        "entries 0 0" => "0<caught inbox 0",
    }
    "an answer with more leaves the pace to the device" {
        "up 0; start 0 anna" => "*",
        "entries 0 2 more 1=a 2=b" => "0<push 1 a; 0<push 2 b; 0<caught inbox 2 more",
        "deliver 0 4 d" => "",
        "pull 0 inbox 2" => "L0>pull 0@2",
        "entries 0 4 3=c 4=d" => "0<push 3 c; 0<push 4 d; 0<caught inbox 4",
        "deliver 0 5 e" => "0<push 5 e",
    }
    "an answer moves the device over entries that have expired" {
        "up 0; start 0 anna; entries 0 3" => "0:start; 0<welcome 180s; L0>announce 0=0; L0>pull 0@0; 0<caught inbox 3",
        "deliver 0 4 d" => "0<push 4 d",
        "deliver 0 6 f; pull 0 inbox 4" => "0<notice inbox 6; L0>pull 0@4",
        "entries 0 6 6=f" => "0<push 6 f; 0<caught inbox 6",
    }
    "an entry that the store does not have is not asked for forever" {
        "up 0; start 0 anna; entries 0 0" => "*",
        "deliver 0 3 c; pull 0 inbox 0" => "0<notice inbox 3; L0>pull 0@0",
        "entries 0 1 1=a" => "0<push 1 a; 0<caught inbox 1",
        "deliver 0 2 b" => "0<push 2 b",
    }
    "a position beyond the end is reset" {
        "up 0; start 0 anna inbox=9" => "*",
        "reset 0 4" => "0<reset inbox 4",
        "reset 0 4" => "",
        "ack 0 9" => "",
        "deliver 0 5 e" => "0<push 5 e",
        "ack 0 5" => "L0>ack 5",
    }
    "when-awake entries wait for the heartbeat, together" {
        "up 0; up 1; start 0 anna; entries 0 0" => "*",
        "deliver 0 1 a!" => "",
        "deliver 0 2 b!" => "",
        "ping 0" => "0<pong; 0<notice inbox 2",
        "ping 0" => "0<pong",
        "pull 0 inbox 0; entries 0 2 1=a! 2=b!" =>
            "L0>pull 0@0; 0<push 1 a; 0<push 2 b; 0<caught inbox 2",
        "deliver 0 3 c" => "0<push 3 c",
        "ping 0" => "0<pong",
    }
    "a realtime entry releases the when-awake ones before it" {
        "up 0; start 0 anna; entries 0 0" => "*",
        "deliver 0 1 a!" => "",
        "deliver 0 2 b" => "0<notice inbox 2",
        "pull 0 inbox 0; entries 0 2 1=a! 2=b" =>
            "L0>pull 0@0; 0<push 1 a; 0<push 2 b; 0<caught inbox 2",
    }
    "what stands before a gap may be realtime" {
        "up 0; start 0 anna; entries 0 0" => "*",
        "deliver 0 2 b!" => "0<notice inbox 2",
    }
    "a when-awake entry that came during a pull waits after it" {
        "up 0; up 1; start 0 anna" => "*",
        "deliver 0 1 a!" => "",
        "entries 0 0" => "",
        "ping 0" => "0<pong; 0<notice inbox 1",
    }
    "a realtime entry that came during a pull is asked for, with what is before it" {
        "up 0; start 0 anna" => "*",
        "deliver 0 1 a!; deliver 0 2 b" => "",
        "entries 0 0" => "L0>pull 0@0",
    }
    "of several answers on their way the later ones end nothing" {
        "up 0; up 1; start 0 anna; down 1; up 1" =>
            "0:start; 0<welcome 180s; L0>announce 0=0; L0>pull 0@0; L1>announce 0=0; \
             L0>announce 0=0; L1>announce 0=0; L1>pull 0@0",
        "entries 0 0" => "",
        "deliver 0 1 a!" => "",
        "via entries 0 0" => "",
        "ping 0" => "0<pong; 0<notice inbox 1",
        "via entries 0 0" => "",
        "deliver 0 2 b" => "",
        "pull 0 inbox 0; entries 0 2 1=a! 2=b" =>
            "L0>pull 0@0; 0<push 1 a; 0<push 2 b; 0<caught inbox 2",
        "deliver 0 3 c" => "0<push 3 c",
    }
    "an answer that nobody here asked for is good for what is new in it" {
        "up 0; start 0 anna; entries 0 0" => "*",
        "via entries 0 2 1=a 2=b" => "0<push 1 a; 0<push 2 b; 0<caught inbox 2",
        "via entries 0 2 1=a 2=b" => "",
        "deliver 0 3 c" => "0<push 3 c",
    }
    "a session has one pull under way, however often its device asks" {
        "up 0; up 1; start 0 anna; entries 0 0; deliver 0 3 c" => "*",
        "pull 0 inbox 0" => "L0>pull 0@0",
        "pull 0 inbox 1; pull 0 inbox 0; pull 0 inbox 1; pull 0 inbox 0" => "L0>ack 1",
        "entries 0 3 1=a 2=b 3=c" => "0<push 1 a; 0<push 2 b; 0<push 3 c; 0<caught inbox 3",
        "pull 0 inbox 3" => "L0>pull 0@3",
        "entries 0 3" => "0<caught inbox 3",
    }
    "nothing is asked for a device that does not read" {
        "up 0; up 1; start 0 anna; entries 0 0; deliver 0 1 a; blocked 0" => "*",
        "pull 0 inbox 1; pull 0 inbox 0; pull 0 inbox 1" => "",
        "deliver 0 2 b" => "",
        "drained 0" => "L0>pull 0@1",
        "entries 0 2 2=b" => "0<push 2 b; 0<caught inbox 2",
    }
    "while a link is missing a heartbeat pulls: its node may have stored something" {
        "up 0; start 0 anna; entries 0 0" => "*",
        "ping 0; ping 0" => "0<pong; L0>pull 0@0; 0<pong",
        "entries 0 1 1=a" => "0<push 1 a; 0<caught inbox 1",
        "up 1" => "L1>announce 0=0; L1>pull 0@0",
        "via entries 0 1 1=a" => "",
        "ping 0" => "0<pong",
    }
    "an answer that may be too old is followed by another pull" {
        "up 0; up 1; start 0 anna; down 1" =>
            "0:start; 0<welcome 180s; L0>announce 0=0; L0>pull 0@0; L1>announce 0=0; \
             L0>announce 0=0",
        "entries 0 0" => "L0>pull 0@0",
        "entries 0 1 1=a" => "0<push 1 a; 0<caught inbox 1",
    }
    "a pull whose link is lost is asked anew when the device asks" {
        "up 0; up 1; start 0 anna; entries 0 0; deliver 0 3 c; pull 0 inbox 0" => "*",
        "down 1" => "L0>announce 0=0",
        "pull 0 inbox 0" => "",
        "entries 0 0" => "0<caught inbox 0; L0>pull 0@0",
        "down 0; pull 0 inbox 0" => "",
        "up 1" => "L1>announce 0=0; L1>pull 0@0",
    }
    "an answer that ends before the device's position is followed by another pull" {
        "up 0; up 1; start 0 anna; entries 0 3; deliver 0 4 d; deliver 0 5 e" => "*",
        "down 1; up 1" => "*",
        "pull 0 inbox 5" => "L0>ack 5",
        "via entries 0 4" => "0<caught inbox 5; L0>pull 0@5",
        "reset 0 4" => "0<reset inbox 4",
    }
    "a group position beyond the end of the log is reset" {
        "up 0; up 1; start 0 anna group=9; entries 0 0; gcursor 4; pull 0 group 9" => "*",
        "greset 0 4" => "0<reset group 4",
        "greset 0 4" => "",
        "gdeliver 5 - e" => "0<cast 5 e; L0>gsent 5 1+0",
    }
    "a device that does not read is left alone, and told once when it reads" {
        "up 0; up 1; start 0 anna; entries 0 0" => "*",
        "deliver 0 1 a; blocked 0; blocked 0" => "0<push 1 a",
        "deliver 0 2 b; deliver 0 3 c" => "",
        "ping 0; ping 0" => "",
        "drained 0" => "0<pong; 0<pong; 0<notice inbox 3",
        "drained 0" => "",
        "pull 0 inbox 1; entries 0 3 2=b 3=c" =>
            "L0>pull 0@1; 0<push 2 b; 0<push 3 c; 0<caught inbox 3",
    }
    "when-awake entries wait for the heartbeat after the socket has drained, too" {
        "up 0; up 1; start 0 anna; entries 0 0; blocked 0; deliver 0 1 a!" => "*",
        "drained 0" => "",
        "ping 0" => "0<pong; 0<notice inbox 1",
    }
    "an answer for a device that does not read is dropped and asked for again" {
        "up 0; start 0 anna; blocked 0" => "*",
        "entries 0 1 1=a" => "",
        "drained 0" => "L0>pull 0@0",
        "entries 0 1 1=a" => "0<push 1 a; 0<caught inbox 1",
        "pull 0 inbox 1; blocked 0; reset 0 0" => "L0>pull 0@1",
        "drained 0; reset 0 0" => "L0>pull 0@1; 0<reset inbox 0",
    }
    "a pull of ours confirms only what the device has" {
        "up 0; up 1; start 0 anna; entries 0 0" => "*",
        "deliver 0 1 a; deliver 0 2 b; ack 0 1" => "0<push 1 a; 0<push 2 b; L0>ack 1",
        "deliver 0 4 d; pull 0 inbox 2" => "0<notice inbox 4; L0>pull 0@2",
        "entries 0 4 3=c 4=d" => "0<push 3 c; 0<push 4 d; 0<caught inbox 4",
        "down 1; up 1" => "L0>announce 0=2; L0>pull 0@2; L1>announce 0=2; L1>pull 0@2",
        "via entries 0 4 3=c 4=d" => "",
        "deliver 0 5 e" => "0<push 5 e",
    }
    "acknowledgements only grow, and not beyond what exists" {
        "up 0; up 1; start 0 anna inbox=3; entries 0 3; deliver 0 4 d" => "*",
        "ack 0 4" => "L0>ack 4",
        "ack 0 4; ack 0 3; ack 0 5" => "",
        "down 1; down 0; pull 0 inbox 4" => "L0>announce 0=4; L0>pull 0@4",
        "up 0" => "L0>announce 0=4; L0>pull 0@4",
    }
    "an acknowledgement without a link travels with the next announcement" {
        "up 0; start 0 anna inbox=3; entries 0 3; deliver 0 4 d; down 0" => "*",
        "ack 0 4" => "",
        "up 0" => "L0>announce 0=4; L0>pull 0@4",
    }
    "what was asked of a lost link is asked of another" {
        "up 0; up 1; start 0 anna; start 1 ben; entries 1 0" => "*",
        "down 0" => "L1>announce 0=0 1=0; L1>pull 0@0 1@0",
        "via entries 0 1 1=a; via entries 1 0" => "0<push 1 a; 0<caught inbox 1",
        "down 1" => "",
        "deliver 1 1 a" => "1<push 1 a",
    }
    "a frame for a session that has ended is dropped" {
        "up 0; start 0 anna; entries 0 0; bye 0; closed 0; start 0 ben; entries 0 0" => "*",
        "deliver 0~ 1 secret" => "",
        "entries 0~ 1 1=secret" => "",
        "gentries 0~ 1 1=secret" => "",
        "reset 0~ 0" => "",
        "kick 0~ 99999" => "",
        "deliver 63 1 secret" => "",
        "deliver 0 1 mine" => "0<push 1 mine",
    }
    "a kick closes an older session only" {
        "up 0; start 0 anna epoch=1000" => "*",
        "kick 0 500; kick 0 1000" => "",
        "kick 0 2000" => "0<close taken_over 0ms; 0:close taken_over; L0>gone 0 taken_over",
        "kick 0 3000" => "",
    }
    "an epoch is above the last one of the device and all that was heard, within bounds" {
        "up 0; ask 0" => "L0>pong 0",
        "start 0 anna epoch=90000; ask 0" => "0:start; 0<welcome 180s; L0>announce 0=0; L0>pull 0@0; L0>pong 90000",
        "kick 0 90000" => "",
        "ask 95000" => "L0>pong 95000",
        "ask 99999999" => "L0>pong 300000",
        "kick 5 99999999; ask 0" => "L0>pong 300000",
    }
    "a group entry is sent to all members as one, and reported" {
        "up 0; start 0 anna; start 1 ben; gcursor 3" => "*",
        "sub 0 77" => "",
        "gdeliver 4 - hi" => "1<cast 4 hi; 0<cast 4 hi; L0>gsent 4 2+0",
        "gdeliver 4 - hi" => "",
        "gdeliver 5 77 t" => "0<topic 5 #77 t; L0>gsent 5 1+0",
        "gdeliver 6 78 nobody" => "",
        "unsub 0 77; unsub 0 77; gdeliver 7 77 t" => "",
        "wait 20000; gdeliver 8 - bye" => "1<cast 8 bye; 0<cast 8 bye; L0>gsent 8 2+0",
        "gack 0 8; gack 1 8; gack 1 4" => "L0>gack 8x1; L0>gack 8x1; L0>gack 4x1",
        "gack 0 9" => "",
    }
    "the answer to a fetch for members who have left is not another one's" {
        "up 0; up 1; start 0 anna; gcursor 3; wait 20000" => "*",
        "gdeliver 12 - l" => "L0>gfetch 3",
        "bye 0; closed 0; start 0 ben; entries 0 0; gcursor 20; wait 20000" => "*",
        "gdeliver 22 - v" => "",
        "gfetched 12 12=l" => "L0>gfetch 20",
        "gfetched 22 21=u 22=v" => "0<cast 21 u; 0<cast 22 v; L0>gsent 21 1+0; L0>gsent 22 1+0",
    }
    "an acknowledgement of what no log has is none" {
        "up 0; up 1; start 0 anna group=99; entries 0 0; gcursor 4" => "*",
        "gack 0 5; gack 0 99" => "",
        "gack 0 4" => "L0>gack 4x1",
    }
    "a gap in the group log is fetched" {
        "up 0; up 1; start 0 anna; gcursor 3; wait 20000" => "*",
        "gdeliver 6 - f" => "L0>gfetch 3",
        "gdeliver 7 - g" => "",
        "gfetched 6 4=d 5=e 6=f" =>
            "0<cast 4 d; 0<cast 5 e; 0<cast 6 f; L0>gfetch 6; L0>gsent 4 1+0; L0>gsent 5 1+0; L0>gsent 6 1+0",
        "gfetched 9 more 7=g 9=i" => "0<cast 7 g; 0<cast 9 i; L0>gfetch 9; L0>gsent 7 1+0; L0>gsent 9 1+0",
        "down 0" => "L1>announce 0=0; L1>pull 0@0; L1>gfetch 9",
        "via gfetched 10" => "",
        "gfetched 11 11=k" => "",
        "gdeliver 11 - k" => "0<cast 11 k; L1>gsent 11 1+0",
        "gcursor 13" => "L1>gfetch 11",
        "via gfetched 12 12=l" => "0<cast 12 l; L1>gsent 12 1+0",
        "gdeliver 13 - m" => "0<cast 13 m; L1>gsent 13 1+0",
    }
    "an entry may come before the cursor" {
        "up 0; start 0 anna; start 1 ben group=2" => "*",
        "gdeliver 4 - d" => "1<notice group 3; 0<caught group 3; 0<cast 4 d; L0>gsent 4 1+1",
        "gcursor 3" => "",
        "gcursor 4" => "",
    }
    "a device that is behind pulls, and nothing overtakes what it lacks" {
        "up 0; start 0 anna; gcursor 10" => "*",
        "start 1 ben group=7" => "1:start; 1<welcome 180s group=10; L0>announce 1=0; L0>pull 1@0",
        "sub 1 77" => "",
        "gdeliver 11 - k" => "0<cast 11 k; L0>gsent 11 1+1",
        "pull 1 group 7" => "L0>gpull 1@7 [77]",
        "pull 1 group 7" => "",
        "gdeliver 12 - l" => "0<cast 12 l; L0>gsent 12 1+1",
        "gentries 1 11 8=h 9@77=i 11=k" =>
            "1<cast 8 h; 1<topic 9 #77 i; 1<cast 11 k; 1<caught group 11; 1<notice group 12",
        "pull 1 group 11; gentries 1 12 12=l" =>
            "L0>gpull 1@11 [77]; 1<cast 12 l; 1<caught group 12",
        "gdeliver 13 77 m" => "1<topic 13 #77 m; L0>gsent 13 1+0",
    }
    "a group answer with more leaves the pace to the device" {
        "up 0; start 0 anna group=0; gcursor 9" => "*",
        "pull 0 group 0; gentries 0 2 more 1=a 2=b" =>
            "L0>gpull 0@0 []; 0<cast 1 a; 0<cast 2 b; 0<caught group 2 more",
        "gdeliver 10 - j" => "L0>gsent 10 0+1",
        "pull 0 group 2; gentries 0 10 10=j" => "L0>gpull 0@2 []; 0<cast 10 j; 0<caught group 10",
        "gdeliver 11 - k" => "0<cast 11 k; L0>gsent 11 1+0",
    }
    "only the link that was asked answers a group pull" {
        "up 0; up 1; start 0 anna group=0; gcursor 2" => "*",
        "pull 0 group 0" => "L0>gpull 0@0 []",
        "via gentries 0 1 1=a" => "",
        "down 0" => "L1>announce 0=0; L1>pull 0@0; L1>gpull 0@0 []",
        "up 0" => "L0>announce 0=0; L0>pull 0@0",
        "gentries 0 1 1=a" => "",
        "via gentries 0 2 1=a 2=b" => "0<cast 1 a; 0<cast 2 b; 0<caught group 2",
    }
    "a group pull without a link goes out with the next" {
        "start 0 anna group=3; pull 0 group 3" => "*",
        "up 0" => "L0>announce 0=0; L0>pull 0@0; L0>gpull 0@3 []",
        "gentries 0 3" => "0<caught group 3",
    }
    "a member that does not read is told when it does" {
        "up 0; start 0 anna; gcursor 3; blocked 0" => "*",
        "gdeliver 4 - d; gdeliver 5 - e" => "L0>gsent 4 0+1; L0>gsent 5 0+1",
        "drained 0" => "0<notice group 5",
        "pull 0 group 3; blocked 0; gentries 0 5 4=d 5=e" => "L0>gpull 0@3 []",
        "drained 0" => "L0>gpull 0@3 []",
        "gentries 0 5 4=d 5=e" => "0<cast 4 d; 0<cast 5 e; 0<caught group 5",
    }
    "a member that does not read gets its place when it does" {
        "up 0; start 0 anna; blocked 0" => "*",
        "gcursor 3" => "",
        "gdeliver 4 - d" => "L0>gsent 4 0+1",
        "drained 0" => "0<caught group 4",
        "gdeliver 5 - e" => "0<cast 5 e; L0>gsent 5 1+0",
    }
    "when-awake group entries wait for the heartbeat" {
        "up 0; start 0 anna; start 1 ben; gcursor 3" => "*",
        "gdeliver 4 - d!" => "L0>gsent 4 0+2",
        "ping 0" => "0<pong; 0<notice group 4",
        "gdeliver 5 - e" => "1<notice group 5; L0>gsent 5 0+2",
        "pull 1 group 3; gdeliver 6 - f!" => "L0>gpull 1@3 []; L0>gsent 6 0+2",
        "gentries 1 5 4=d! 5=e" => "1<cast 4 d; 1<cast 5 e; 1<caught group 5",
        "ping 1" => "1<pong; 1<notice group 6",
    }
    "a large group entry waits" {
        "up 0; start 0 anna; gcursor 3" => "*",
        "gdeliver 4 - large" => "0<notice group 4; L0>gsent 4 0+1",
    }
    "a subscribe right behind the connect misses nothing" {
        "up 0; start 0 anna; gcursor 3; wait 20000; start 1 ben group=3" => "*",
        "gdeliver 4 77 d" => "",
        "gdeliver 5 - e" => "1<notice group 5; 0<cast 5 e; L0>gsent 5 1+1",
        "sub 1 77; pull 1 group 3" => "L0>gpull 1@3 [77]",
        "gentries 1 5 4@77=d 5=e" => "1<topic 4 #77 d; 1<cast 5 e; 1<caught group 5",
        "start 2 carl group=5; gdeliver 6 78 f; sub 2 78" =>
            "2:start; 2<welcome 180s group=5; L0>announce 2=0; L0>pull 2@0; 2<notice group 6",
        "start 3 dora group=6; gdeliver 7 79 g; wait 20000; sub 3 79" =>
            "3:start; 3<welcome 180s group=6; L0>announce 3=0; L0>pull 3@0",
    }
    "the cursor is forgotten with the last member" {
        "up 0; start 0 anna; gcursor 3; gdeliver 5 - e" => "*",
        "bye 0" => "0:close bye; L0>gone 0 bye",
        "gfetched 5 4=d 5=e; gdeliver 6 - f; gcursor 6" => "",
        "closed 0; start 0 anna" => "0:start; 0<welcome 180s; L0>announce 0=0; L0>pull 0@0",
        "gcursor 9" => "0<caught group 9",
    }
    "heartbeats are answered, and the interval grows after five good ones" {
        "start 0 anna; ping 0" => "0:start; 0<welcome 180s; 0<pong",
        "ping 0; ping 0; ping 0; ping 0; ping 0" => "0<pong; 0<pong; 0<pong; 0<pong; 0<pong",
        "wait 180000; ping 0; wait 180000; ping 0; wait 180000; ping 0; wait 180000; ping 0" =>
            "0<pong; 0<pong; 0<pong; 0<pong",
        "wait 180000; ping 0" => "0<pong; 0<interval 300s",
        "wait 300000; ping 0; wait 300000; ping 0; wait 300000; ping 0; wait 300000; ping 0" =>
            "0<pong; 0<pong; 0<pong; 0<pong",
        "wait 300000; ping 0" => "0<pong; 0<interval 600s",
        "wait 919999" => "",
        "wait 1" => "0<close idle 0ms; 0:close idle",
    }
    "a device may propose its interval" {
        "start 0 anna beat=299; start 1 ben beat=300; start 2 carl beat=9999; start 3 dora beat=5" =>
            "0:start; 0<welcome 180s; 1:start; 1<welcome 300s; 2:start; 2<welcome 600s; 3:start; 3<welcome 180s",
    }
    "silence ends a session, whatever is said keeps it" {
        "start 0 anna; wait 289999" => "0:start; 0<welcome 180s",
        "ack 0 0; wait 289999" => "",
        "wait 1" => "0<close idle 0ms; 0:close idle",
    }
    "a connect must come in time" {
        "accept 0; wait 9999" => "0:start",
        "wait 1" => "0<close handshake_timeout 0ms; 0:close handshake_timeout",
    }
    "a connect comes first and once" {
        "accept 0; ping 0" => "0:start; 0<close unexpected 0ms; 0:close unexpected",
        "start 1 anna; connect 1 anna" => "1:start; 1<welcome 180s; 1<close unexpected 0ms; 1:close unexpected",
    }
    "what comes behind a close in the same turn is ignored" {
        "start 0 anna; bye 0" => "0:start; 0<welcome 180s; 0:close bye",
        "ping 0; connect 0 anna; hangup 0; bad 0; blocked 0; drained 0; slow 0; sub 0 1" => "",
        "closed 0; start 0 anna" => "0:start; 0<welcome 180s",
    }
    "ends that the device cannot read are silent" {
        "start 0 anna; hangup 0" => "0:start; 0<welcome 180s; 0:close reset",
        "start 1 ben; blocked 1; slow 1" => "1:start; 1<welcome 180s; 1:close slow_reader",
        "start 2 carl; bad 2" => "2:start; 2<welcome 180s; 2<close bad_frame 0ms; 2:close bad_frame",
    }
    "a drain sends everybody elsewhere, at its pace" {
        "up 0; start 0 anna; start 1 ben; accept 2; start 3 carl; bye 3" => "*",
        "drain; drain" => "stop-accepting",
        "accept 4" => "4<close drain 0ms b.example:7400; 4:close drain",
        "wait 99" => "",
        "wait 1" => "0<close drain 0ms b.example:7400; 0:close drain; L0>gone 0 drain",
        "wait 200" => "1<close drain 0ms b.example:7400; 1:close drain; 2<close drain 0ms b.example:7400; 2:close drain; L0>gone 1 drain",
        "closed 0; closed 1; closed 2; closed 3" => "",
        "closed 4" => "drained",
        "wait 1000" => "",
    }
    "low memory admits nobody and closes nobody" {
        "start 0 anna; memory low" => "0:start; 0<welcome 180s",
        "accept 1" => "1<close overload 700ms b.example:7400; 1:close overload",
        "ping 0; memory enough" => "0<pong",
        "accept 2" => "2:start",
    }
    "the loss of every link closes nobody" {
        "up 0; up 1; start 0 anna; entries 0 0; down 0; down 1" => "*",
        "ping 0; down 0" => "0<pong",
        "up 1" => "L1>announce 0=0; L1>pull 0@0",
    }
}
