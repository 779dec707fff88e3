//! The HTTP API of the real process with the store inside it: every endpoint, every error.

use crate::client::Client;
use crate::control::{ADMIN_KEY, Control};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, Verifier as _, VerifyingKey};
use hawser_codec::ticket::{SIGNATURE_CONTEXT, Ticket};
use reqwest::Method;
use serde_json::{Value, json};

const PAYLOAD_MAX: usize = 64 * 1024;

fn push_to(device: &str) -> Value {
    json!({"to": {"device": device}, "payload": "hello", "ttl_s": 60})
}

#[test]
fn apps_are_registered_and_listed() {
    let control = Control::start();
    let client = Client::new(&control);
    let body = json!({"name": "shop", "quota": {"inbox_entries_max": 5}});
    let created = client.post("/v1/apps", ADMIN_KEY, &body).expect(201);
    assert_eq!(created["name"], "shop");
    assert_eq!(created["signing_key"]["alg"], "ed25519");
    assert!(created["api_key"].as_str().unwrap().starts_with("hwk_"));
    client.app("other", json!({}));
    let listed = client.get("/v1/apps", ADMIN_KEY).expect(200);
    let names: Vec<&str> = listed["apps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|app| app["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["shop", "other"]);
    assert_eq!(listed["apps"][0]["quota"]["inbox_entries_max"], 5);
    assert_eq!(listed["apps"][0]["signs_tickets"], true);
    assert!(!listed.to_string().contains("hwk_"), "keys are shown once");

    // They are there after a restart.
    let control = control.restart(&[]);
    let client = Client::new(&control);
    let key = created["api_key"].as_str().unwrap();
    client.post("/v1/apps/shop/messages", key, &push_to("d")).expect(202);
}

#[test]
fn tickets_verify_with_the_apps_public_key() {
    let control = Control::start();
    let client = Client::new(&control);
    let created = client.post("/v1/apps", ADMIN_KEY, &json!({"name": "shop"})).expect(201);
    let key = created["api_key"].as_str().unwrap();
    let body = json!({"device": "phone-1", "ttl_s": 100});
    let signed = client.post("/v1/apps/shop/tickets", key, &body).expect(200);
    let bytes = URL_SAFE_NO_PAD.decode(signed["ticket"].as_str().unwrap()).unwrap();
    let ticket = Ticket::decode(&bytes).unwrap();
    assert_eq!((ticket.app, ticket.device, ticket.key_id), ("shop", "phone-1", 1));
    assert_eq!(signed["expires_at"], ticket.expires_s);
    let public = created["signing_key"]["public"].as_str().unwrap();
    let public: [u8; 32] = URL_SAFE_NO_PAD.decode(public).unwrap().try_into().unwrap();
    let signature = Signature::from_slice(ticket.signature).unwrap();
    let message = [SIGNATURE_CONTEXT, ticket.signed].concat();
    VerifyingKey::from_bytes(&public).unwrap().verify(&message, &signature).unwrap();

    let body = json!({"name": "own-server", "keep_signing_key": false});
    let created = client.post("/v1/apps", ADMIN_KEY, &body).expect(201);
    let key = created["api_key"].as_str().unwrap();
    let refused = client.post("/v1/apps/own-server/tickets", key, &json!({"device": "d"}));
    assert_eq!(refused.expect(409)["error"]["code"], "no_signing_key");
}

#[test]
fn messages_are_stored_and_their_state_is_told() {
    let control = Control::start();
    let client = Client::new(&control);
    let key = client.app("shop", json!({}));
    for (seq, body) in [
        (1, json!({"to": {"device": "d"}, "payload": "text"})),
        (2, json!({"to": {"device": "d"}, "payload": "esc\"aped\u{1}"})),
        (3, json!({"to": {"device": "d"}, "payload_base64": "AAECAw==", "when_awake": true})),
        (4, json!({"to": {"device": "d"}, "payload_base64": "AAECAw", "priority": "high"})),
        (5, json!({"to": {"device": "d"}, "payload": "", "ttl_s": 2_592_000})),
    ] {
        let accepted = client.post("/v1/apps/shop/messages", &key, &body).expect(202);
        assert_eq!(accepted["seq"], seq, "{body}");
        assert_eq!(accepted["online"], false);
        assert_eq!(accepted["duplicate"], false);
        let path = format!("/v1/apps/shop/messages/{}", accepted["id"].as_str().unwrap());
        let state = client.get(&path, &key).expect(200);
        assert_eq!(state["state"], "pending");
        assert_eq!(state["id"], accepted["id"]);
    }
    let device = client.get("/v1/apps/shop/devices/d", &key).expect(200);
    assert_eq!(device["online"], false);
    assert_eq!(device["inbox"], json!({"entries": 5, "last_seq": 5, "acked": 0}));
    for (seq, to) in [(1, json!({"all": true})), (2, json!({"topic": "news"}))] {
        let body = json!({"to": to, "payload": "x"});
        let accepted = client.post("/v1/apps/shop/messages", &key, &body).expect(202);
        assert_eq!(accepted["seq"], seq);
        let path = format!("/v1/apps/shop/messages/{}", accepted["id"].as_str().unwrap());
        let state = client.get(&path, &key).expect(200);
        assert_eq!(state["sent"], 0, "{state}");
    }
    let body = json!({"to": {"device": "c"}, "payload": "x", "collapse_key": "k"});
    let first = client.post("/v1/apps/shop/messages", &key, &body).expect(202);
    let second = client.post("/v1/apps/shop/messages", &key, &body).expect(202);
    for (accepted, expect) in [(&first, "collapsed"), (&second, "pending")] {
        let path = format!("/v1/apps/shop/messages/{}", accepted["id"].as_str().unwrap());
        assert_eq!(client.get(&path, &key).expect(200)["state"], expect);
    }
}

#[test]
fn a_repeat_is_recognised_even_after_a_crash() {
    let control = Control::start();
    let client = Client::new(&control);
    let key = client.app("shop", json!({}));
    let body = json!({"to": {"device": "d"}, "payload": "x", "idempotency_key": "order-1"});
    let first = client.post("/v1/apps/shop/messages", &key, &body).expect(202);
    let again = client.post("/v1/apps/shop/messages", &key, &body).expect(202);
    assert_eq!((&first["id"], &first["seq"]), (&again["id"], &again["seq"]));
    assert_eq!((&first["duplicate"], &again["duplicate"]), (&json!(false), &json!(true)));
    let control = control.restart(&[]);
    let client = Client::new(&control);
    let third = client.post("/v1/apps/shop/messages", &key, &body).expect(202);
    assert_eq!((&third["id"], &third["duplicate"]), (&first["id"], &json!(true)));
    let device = client.get("/v1/apps/shop/devices/d", &key).expect(200);
    assert_eq!(device["inbox"]["entries"], 1);
}

#[test]
fn a_batch_has_a_result_for_each_message() {
    let control = Control::start();
    let client = Client::new(&control);
    let key = client.app("shop", json!({"inbox_entries_max": 2000}));
    let path = "/v1/apps/shop/messages:batch";
    let batch = |messages: &Vec<Value>| json!({"messages": messages});

    let mut messages = vec![push_to("d"); 1000];
    let results = client.post(path, &key, &batch(&messages)).expect(202);
    let results = results["results"].as_array().unwrap();
    let seqs: Vec<u64> = results.iter().map(|result| result["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=1000).collect::<Vec<u64>>());

    messages.push(push_to("d"));
    let refused = client.post(path, &key, &batch(&messages)).expect(400);
    assert_eq!(refused["error"]["field"], "messages[1000]");
    let refused = client.post(path, &key, &batch(&vec![])).expect(400);
    assert_eq!(refused["error"]["field"], "messages");

    let mixed = vec![
        push_to("a"),
        json!({"to": {"device": "a"}, "payload": "x", "ttl_s": 0}),
        json!({"to": {}, "payload": "x"}),
        json!({"to": {"device": "a"}, "payload": "x".repeat(PAYLOAD_MAX + 1)}),
        push_to("a"),
    ];
    let results = client.post(path, &key, &batch(&mixed)).expect(202);
    let results = &results["results"];
    assert_eq!((&results[0]["seq"], &results[4]["seq"]), (&json!(1), &json!(2)));
    assert_eq!(results[1]["error"]["code"], "bad_field");
    assert_eq!(results[2]["error"]["field"], "messages[2].to");
    assert_eq!(results[3]["error"]["code"], "payload_too_large");

    // A mistake in the document itself stores nothing.
    let broken = json!({"messages": [push_to("b"), {"to": {"device": "b"}, "payload": 5}]});
    let refused = client.post(path, &key, &broken).expect(400);
    assert_eq!(refused["error"]["field"], "messages[1].payload");
    let device = client.get("/v1/apps/shop/devices/b", &key).expect(200);
    assert_eq!(device["inbox"]["last_seq"], 0);
    let huge = vec![b' '; (16 << 20) + 1];
    let refused = client.send(Method::POST, path, &key, huge).expect(413);
    assert_eq!(refused["error"]["code"], "payload_too_large");
}

#[test]
fn wrong_requests_are_told_what_is_wrong() {
    let control = Control::start();
    let client = Client::new(&control);
    let key = client.app("shop", json!({}));
    let push = |change: &dyn Fn(&mut Value)| {
        let mut body = push_to("d");
        change(&mut body);
        body
    };
    let messages = "/v1/apps/shop/messages";
    for (path, body, status, code, field) in [
        (messages, push(&|b| b["ttl_s"] = json!(0)), 400, "bad_field", "ttl_s"),
        (messages, push(&|b| b["ttl_s"] = json!(2_592_001)), 400, "bad_field", "ttl_s"),
        (messages, push(&|b| b["ttl_s"] = json!(-1)), 400, "bad_field", "ttl_s"),
        (messages, push(&|b| b["ttl_s"] = json!("60")), 400, "bad_field", "ttl_s"),
        (messages, push(&|b| b["ttl"] = json!(60)), 400, "bad_field", "ttl"),
        (messages, push(&|b| b["to"] = json!({"devise": "d"})), 400, "bad_field", "to.devise"),
        (messages, push(&|b| b["to"] = json!({})), 400, "bad_field", "to"),
        (
            messages,
            push(&|b| b["to"] = json!({"device": "d", "topic": "t"})),
            400,
            "bad_field",
            "to",
        ),
        (messages, push(&|b| b["to"] = json!({"device": ""})), 400, "bad_field", "to.device"),
        (messages, push(&|b| b["to"] = json!({"topic": "a\nb"})), 400, "bad_field", "to.topic"),
        (messages, push(&|b| b["to"] = json!({"all": false})), 400, "bad_field", "to.all"),
        (messages, push(&|b| b["priority"] = json!("urgent")), 400, "bad_field", "priority"),
        (messages, push(&|b| b["collapse_key"] = json!("")), 400, "bad_field", "collapse_key"),
        (
            messages,
            push(&|b| b["idempotency_key"] = json!("k".repeat(129))),
            400,
            "bad_field",
            "idempotency_key",
        ),
        (
            messages,
            push(&|b| b["payload_base64"] = json!("AA")),
            400,
            "bad_field",
            "payload_base64",
        ),
        (messages, json!({"to": {"device": "d"}}), 400, "bad_field", "payload"),
        (
            messages,
            json!({"to": {"device": "d"}, "payload_base64": "?"}),
            400,
            "bad_field",
            "payload_base64",
        ),
        (messages, json!({"payload": "x"}), 400, "bad_field", "to"),
        (
            messages,
            push(&|b| b["payload"] = json!("x".repeat(PAYLOAD_MAX + 1))),
            413,
            "payload_too_large",
            "",
        ),
        ("/v1/apps/shop/tickets", json!({"device": "d", "ttl_s": 0}), 400, "bad_field", "ttl_s"),
        ("/v1/apps/shop/tickets", json!({"device": "a\u{7}"}), 400, "bad_field", "device"),
        ("/v1/apps/shop/nothing", json!({}), 404, "no_such_route", ""),
        ("/v1/status", json!({}), 405, "method_not_allowed", ""),
    ] {
        let error = &client.post(path, &key, &body).expect(status)["error"];
        assert_eq!(error["code"], code, "{error}");
        assert_eq!(error["field"].as_str().unwrap_or(""), field, "{error}");
        assert!(error["message"].as_str().unwrap().contains(field), "{error}");
    }
    let hint = client.post(messages, &key, &push(&|b| b["ttl"] = json!(60))).expect(400);
    assert_eq!(hint["error"]["message"], "ttl: no such field; did you mean ttl_s?");
    for (body, expect) in [(&b"{\"to\""[..], "bad_json"), (b"", "bad_json"), (b"\xff", "bad_json")]
    {
        let refused = client.send(Method::POST, messages, &key, body.to_vec()).expect(400);
        assert_eq!(refused["error"]["code"], expect, "{refused}");
    }
    let huge = vec![b' '; 6 * PAYLOAD_MAX + 16 * 1024 + 1];
    let refused = client.send(Method::POST, messages, &key, huge).expect(413);
    assert_eq!(refused["error"]["code"], "payload_too_large");
    // The largest payload is taken, also where every byte of it has six in JSON.
    for payload in ["x", "\u{1}"] {
        let body = push(&|b| b["payload"] = json!(payload.repeat(PAYLOAD_MAX)));
        client.post(messages, &key, &body).expect(202);
    }
    for (body, field) in [
        (json!({"name": "Shop"}), "name"),
        (json!({"name": ""}), "name"),
        (json!({"name": "x", "quota": {"messages_per_s": -1}}), "quota.messages_per_s"),
        (json!({"name": "x", "quota": {"inbox_entries_max": 0}}), "quota.inbox_entries_max"),
        (json!({"name": "x", "quota": {"messages": 1}}), "quota.messages"),
        (json!({"nam": "x"}), "nam"),
    ] {
        let error = &client.post("/v1/apps", ADMIN_KEY, &body).expect(400)["error"];
        assert_eq!(error["field"], field, "{error}");
    }
    let taken = client.post("/v1/apps", ADMIN_KEY, &json!({"name": "shop"})).expect(409);
    assert_eq!(taken["error"]["code"], "app_name_taken");
}

#[test]
fn keys_open_what_they_are_for() {
    let control = Control::start();
    let client = Client::new(&control);
    let shop = client.app("shop", json!({}));
    let other = client.app("other", json!({}));
    let messages = "/v1/apps/shop/messages";
    for (path, key, status, code) in [
        (messages, "", 401, "unauthorized"),
        (messages, "hwk_nobody", 401, "unauthorized"),
        (messages, &other, 403, "forbidden"),
        ("/v1/apps/nothing/messages", &other, 404, "unknown_app"),
        ("/v1/apps/nothing/messages", ADMIN_KEY, 404, "unknown_app"),
        ("/v1/apps/no%20name/messages", ADMIN_KEY, 404, "unknown_app"),
        ("/v1/apps", &shop, 403, "forbidden"),
        ("/v1/apps", "", 401, "unauthorized"),
    ] {
        let refused = client.post(path, key, &push_to("d")).expect(status);
        assert_eq!(refused["error"]["code"], code, "{path}");
    }
    for key in [&shop[..], ADMIN_KEY] {
        client.post(messages, key, &push_to("d")).expect(202);
    }
    client.get("/v1/status", &shop).expect(403);
    client.get("/v1/status", "").expect(401);

    // A message is its app's, and nobody else's.
    let accepted = client.post(messages, &shop, &push_to("d")).expect(202);
    let id = accepted["id"].as_str().unwrap();
    client.get(&format!("/v1/apps/shop/messages/{id}"), &shop).expect(200);
    client.get(&format!("/v1/apps/shop/messages/{id}"), &other).expect(403);
    let hidden = client.get(&format!("/v1/apps/other/messages/{id}"), &other).expect(404);
    assert_eq!(hidden["error"]["code"], "unknown_message");
    let bad = client.get("/v1/apps/shop/messages/not-an-id", &shop).expect(400);
    assert_eq!(bad["error"]["field"], "id");
}

#[test]
fn quotas_say_when_to_come_back() {
    let control = Control::start();
    let client = Client::new(&control);
    let key = client.app("slow", json!({"messages_per_s": 2}));
    let batch = json!({"messages": vec![push_to("d"); 20]});
    let results = client.post("/v1/apps/slow/messages:batch", &key, &batch).expect(202);
    let results = results["results"].as_array().unwrap();
    let refused = results.iter().find(|result| result["error"].is_object()).unwrap();
    assert_eq!(refused["error"]["code"], "quota_exceeded");
    assert!(refused["error"]["retry_after_ms"].as_u64().unwrap() > 0);
    let refused = client.post("/v1/apps/slow/messages", &key, &push_to("d"));
    assert_eq!(refused.retry_after.as_deref(), Some("1"), "{refused:?}");
    assert_eq!(refused.expect(429)["error"]["code"], "quota_exceeded");

    let key = client.app("small", json!({"inbox_entries_max": 2}));
    for status in [202, 202, 429] {
        let reply = client.post("/v1/apps/small/messages", &key, &push_to("d"));
        assert_eq!(reply.retry_after.is_some(), status == 429);
        reply.expect(status);
    }
    client.post("/v1/apps/small/messages", &key, &push_to("another")).expect(202);
}

#[test]
fn pages_are_served() {
    let control = Control::start_with(&["broker_addresses=[\"a:1\", \"b:2\", \"c:3\"]"]);
    let client = Client::new(&control);
    let key = client.app("shop", json!({}));
    client.post("/v1/apps/shop/messages", &key, &push_to("d")).expect(202);
    assert_eq!(client.get("/health", "").expect(200), "ok\n");
    let status = client.get("/v1/status", ADMIN_KEY).expect(200);
    assert_eq!(status["store_up"], true);
    assert_eq!(status["apps"][0]["name"], "shop");
    let document = client.get("/v1/openapi.json", "").expect(200);
    assert_eq!(document["openapi"].as_str().unwrap().split('.').next(), Some("3"));
    let metrics = client.get("/metrics", "").expect(200);
    let metrics = metrics.as_str().unwrap();
    for name in ["api_requests_total{answer=\"ok\"}", "links_up 0", "store_operations_total"] {
        assert!(metrics.contains(&format!("hawser_control_{name}")), "{name} in {metrics}");
    }
    let addresses = client.get("/v1/devices/addresses?app=shop", "").expect(200);
    let mut addresses: Vec<&str> =
        addresses["addresses"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
    addresses.sort();
    assert_eq!(addresses, ["a:1", "b:2", "c:3"]);
    for path in ["/v1/devices/addresses", "/v1/devices/addresses?app=shop&x=1"] {
        assert_eq!(client.get(path, "").expect(400)["error"]["field"], "app");
    }
}
