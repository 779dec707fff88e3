//! What clients of the HTTP API can take from each other: connections, time, and room for bodies.

use crate::client::Client;
use crate::control::{ADMIN_KEY, Control};
use crate::raw::Raw;
use crate::running::eventually;
use reqwest::Method;
use serde_json::{Value, json};

const MIB: usize = 1 << 20;

/// A value of the metrics page.
fn metric(client: &Client, name: &str) -> u64 {
    let page = client.get("/metrics", "").expect(200);
    let start = format!("hawser_control_{name} ");
    let line = page.as_str().unwrap().lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_else(|| panic!("{name} in {page}")).parse().unwrap()
}

/// The head of a request with this key; `more` are its last lines.
fn head(request: &str, key: &str, more: &str) -> String {
    format!("{request} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n{more}\r\n")
}

fn push_to(device: &str) -> Value {
    json!({"to": {"device": device}, "payload": "hello"})
}

/// A push whose body has so many bytes.
fn padded_push(bytes: usize) -> String {
    let push = push_to("d").to_string();
    format!("{push}{}", " ".repeat(bytes - push.len()))
}

#[test]
fn a_request_has_one_deadline_however_it_trickles() {
    let control = Control::start_with(&["api_request_timeout_ms=300"]);
    let client = Client::new(&control);
    let key = client.app("shop", json!({}));
    let others_are_served = || {
        client.post("/v1/apps/shop/messages", &key, &push_to("d")).expect(202);
    };
    let slow_head = Raw::start(&control, "GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ");
    assert_eq!(slow_head.trickle(others_are_served), "");
    assert_eq!(metric(&client, "api_connections_cut_off_total{reason=\"head_timeout\"}"), 1);

    let request = head("POST /v1/apps/shop/messages", &key, "Content-Length: 400000\r\n");
    let said = Raw::start(&control, &request).trickle(others_are_served);
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
    assert!(said.contains("\"request_timeout\""), "{said}");
    assert_eq!(metric(&client, "api_refusals_total{code=\"request_timeout\"}"), 1);

    // More answers than the sockets hold, and nobody reads them.
    let request = head("GET /v1/openapi.json", "none", "");
    let _deaf = Raw::start(&control, &request.repeat(600));
    eventually("a client that does not take its answers is cut off", || {
        let name = "api_connections_cut_off_total{reason=\"answer_timeout\"}";
        (metric(&client, name) == 1).then_some(())
    });
    assert_eq!(metric(&client, "api_connections_cut_off_total{reason=\"head_timeout\"}"), 1);
}

#[test]
fn connections_without_a_key_make_room_and_others_stay() {
    let control = Control::start_with(&["api_connections_max=4", "api_request_timeout_ms=3600000"]);
    let client = Client::new(&control);
    let key = client.app("shop", json!({}));
    let list = head("GET /v1/apps/shop/devices/d", &key, "");
    let mut keyed = Raw::start(&control, &list);
    assert_eq!(keyed.answer().0, 200);

    let stranger = || Raw::start(&control, "GET /health HTTP/1.1\r\nX: ");
    let (first, second) = (stranger(), stranger());
    // From here on all places are taken.
    let third = stranger();
    first.ended();
    let mut wrong_key = Raw::start(&control, &head("GET /v1/status", "wrong", "X: y\r\n"));
    second.ended();
    assert_eq!(wrong_key.answer().0, 401);
    let mut late = Raw::start(&control, &list);
    third.ended();
    assert_eq!(late.answer().0, 200);
    let fourth = stranger();
    // It was answered, but has shown no valid key.
    wrong_key.ended();

    for keyed in [&mut keyed, &mut late] {
        keyed.send(list.as_bytes());
        assert_eq!(keyed.answer().0, 200);
    }
    assert_eq!(metric(&client, "api_connections_cut_off_total{reason=\"made_room\"}"), 4);
    assert_eq!(metric(&client, "api_connections"), 4);
    drop(fourth);
}

#[test]
fn bodies_under_way_have_a_budget() {
    let control = Control::start_with(&["api_bodies_mib=16"]);
    let client = Client::new(&control);
    let key = client.app("shop", json!({}));
    let messages = "/v1/apps/shop/messages";
    let push =
        |bytes: usize| client.send(Method::POST, messages, &key, padded_push(bytes).into_bytes());
    // The server asks for the body when it has found room for it.
    let hold = |bytes: usize| {
        let more = format!("Content-Length: {bytes}\r\nExpect: 100-continue\r\n");
        let request = head("POST /v1/apps/shop/messages:batch", &key, &more);
        let mut raw = Raw::start(&control, &request);
        assert!(raw.head().starts_with("HTTP/1.1 100 "));
        raw
    };

    let held = hold(16 * MIB - 1000);
    assert_eq!(metric(&client, "api_body_bytes"), (16 * MIB - 1000) as u64);
    let refused = push(1001);
    assert_eq!(refused.retry_after.as_deref(), Some("1"));
    let refused = refused.expect(429);
    assert_eq!(refused["error"]["code"], "too_many_bodies");
    assert_eq!(refused["error"]["retry_after_ms"], 1000);
    push(1000).expect(202);
    let batch = vec![b' '; 8 * MIB];
    client.send(Method::POST, "/v1/apps/shop/messages:batch", &key, batch).expect(429);
    // What has no body needs no room.
    client.get("/v1/apps", ADMIN_KEY).expect(200);
    drop(held);
    eventually("the room is given back", || (metric(&client, "api_body_bytes") == 0).then_some(()));
    push(1001).expect(202);

    // Without a length a body takes 64 KiB, and more when it grows beyond.
    let chunked = |bytes: usize| {
        let request = head(&format!("POST {messages}"), &key, "Transfer-Encoding: chunked\r\n");
        let body = format!("{bytes:x}\r\n{}\r\n0\r\n\r\n", padded_push(bytes));
        Raw::start(&control, &format!("{request}{body}")).answer().0
    };
    let held = hold(16 * MIB - 64 * 1024);
    assert_eq!(chunked(64 * 1024), 202);
    assert_eq!(chunked(64 * 1024 + 1), 429);
    drop(held);
    eventually("the room is given back", || (metric(&client, "api_body_bytes") == 0).then_some(()));
    assert_eq!(chunked(64 * 1024 + 1), 202);
    assert_eq!(metric(&client, "api_refusals_total{code=\"too_many_bodies\"}"), 3);
}

#[test]
fn a_body_is_not_read_for_those_who_may_not_send_it() {
    let control = Control::start();
    let client = Client::new(&control);
    let shop = client.app("shop", json!({}));
    let other = client.app("other", json!({}));
    for (path, key, status) in [
        ("/v1/apps/shop/messages", "wrong", 401),
        ("/v1/apps/shop/messages:batch", "wrong", 401),
        ("/v1/apps/shop/messages", &other, 403),
        ("/v1/apps/shop/messages:batch", &other, 403),
        ("/v1/apps/shop/tickets", &other, 403),
        ("/v1/apps", &shop, 403),
        ("/v1/apps/nothing/messages", ADMIN_KEY, 404),
        // It says itself that it is too large.
        ("/v1/apps/shop/messages", &shop, 413),
        ("/v1/apps/shop/messages:batch", &shop, 413),
    ] {
        let length = if status == 413 { 16 * MIB + 1 } else { 100 };
        let more = format!("Content-Length: {length}\r\n");
        // Not one byte of the body is sent.
        let answer = Raw::start(&control, &head(&format!("POST {path}"), key, &more)).answer();
        assert_eq!(answer.0, status, "{path}: {}", answer.1);
    }
    // Who has begun to send is not cut off before the answer is read.
    for (key, status) in [("wrong", 401), (&other, 403), (&shop, 413)] {
        let body = vec![b' '; 16 * MIB + 1];
        client.send(Method::POST, "/v1/apps/shop/messages:batch", key, body).expect(status);
    }
    assert_eq!(metric(&client, "api_body_bytes"), 0);
}

#[test]
fn a_batch_is_read_up_to_its_limit() {
    let control = Control::start();
    let client = Client::new(&control);
    let key = client.app("shop", json!({}));
    let batch = "/v1/apps/shop/messages:batch";
    let with = |end: &str| {
        let messages = vec![push_to("d").to_string(); 1000].join(",");
        let body = format!("{{\"messages\": [{messages}{end}");
        client.send(Method::POST, batch, &key, body.into_bytes())
    };
    with("]}").expect(202);
    // What follows is not even looked at.
    for end in [", {}]}", ", {this is no JSON"] {
        let refused = with(end).expect(400);
        assert_eq!(refused["error"]["code"], "bad_field", "{refused}");
        let message = "messages[1000]: there must be 1 to 1000 messages";
        assert_eq!(refused["error"]["message"], message);
    }
}

#[test]
fn refusals_are_counted_by_their_code() {
    let control = Control::start();
    let client = Client::new(&control);
    let key = client.app("shop", json!({}));
    let zero = json!({"to": {"device": "d"}, "payload": "x", "ttl_s": 0});
    let large = json!({"to": {"device": "d"}, "payload": "x".repeat(64 * 1024 + 1)});
    let messages = "/v1/apps/shop/messages";
    client.post(messages, &key, &zero).expect(400);
    client.post(messages, &key, &large).expect(413);
    let batch = json!({"messages": [zero, large, push_to("d"), zero]});
    client.post("/v1/apps/shop/messages:batch", &key, &batch).expect(202);
    client.get("/v1/status", &key).expect(403);
    client.get("/nowhere", "").expect(404);
    for (code, count) in [
        ("bad_field", 3),
        ("payload_too_large", 2),
        ("forbidden", 1),
        ("no_such_route", 1),
        ("unauthorized", 0),
        ("inbox_full", 0),
    ] {
        let name = format!("api_refusals_total{{code=\"{code}\"}}");
        assert_eq!(metric(&client, &name), count, "{name}");
    }
}
