use proptest::prelude::*;

use super::*;

fn code(line: &str) -> (ErrorCode, Option<String>) {
    let e = ClientFrame::decode(line.as_bytes()).expect_err("must be refused");
    (e.code, e.reference)
}

#[test]
fn every_refusal_has_its_code_and_keeps_the_ref() {
    use ErrorCode::*;
    assert_eq!(code("").0, BadJson);
    assert_eq!(code("nonsense").0, BadJson);
    assert_eq!(code("[1]").0, BadJson);
    assert_eq!(code("{\"op\":\"ack\"").0, BadJson);
    assert_eq!(code("{}").0, BadField);
    assert_eq!(code(r#"{"op":7}"#).0, BadField);
    assert_eq!(code(r#"{"op":"ack","ref":7,"tag":1}"#).0, BadField);
    assert_eq!(code(r#"{"op":"dance","ref":"r1"}"#), (UnknownOp, Some("r1".into())));
    assert_eq!(code(r#"{"op":"ack","ref":"r2"}"#), (BadField, Some("r2".into())));
    assert_eq!(code(r#"{"op":"send","ref":"r3","to":"b","type":"command"}"#), (BadField, Some("r3".into())));
    assert_eq!(code(r#"{"op":"send","to":"b","type":"gossip","payload":1}"#).0, BadField);
    assert_eq!(code(r#"{"op":"send","to":"b","type":"data","priority":11,"payload":1}"#).0, BadField);
    assert_eq!(code(r#"{"op":"send","to":"","type":"data","payload":1}"#).0, BadField);
    assert_eq!(code(r#"{"op":"send","to":"b","type":"data","headers":[],"payload":1}"#).0, BadField);
    assert_eq!(code(r#"{"op":"send","to":"b","type":"data","ttl_ms":604800001,"payload":1}"#).0, BadField);
    assert_eq!(code(r#"{"op":"nack","tag":1,"outcome":"shrug"}"#).0, BadField);
    assert_eq!(code(r#"{"op":"begun"}"#).0, BadField);
    assert_eq!(code(r#"{"op":"send","to":"group:g","type":"data","payload":1}"#).0, BadField);
    assert_eq!(code("{\"op\":\"hello\",\"agent\":\"a\\u0000\",\"token\":\"t\"}").0, BadField);
    let hello = |more: &str| code(&format!(r#"{{"op":"hello","agent":"a","token":"t",{more}}}"#)).0;
    assert_eq!(hello(r#""environment":"""#), BadField);
    assert_eq!(hello(r#""version":7"#), BadField);
    assert_eq!(hello(r#""capabilities":"validate""#), BadField);
    assert_eq!(hello("\"capabilities\":{\"k\":[\"\\u0000\"]}"), BadField);
    let long = "x".repeat(NAME_BYTES_MAX + 1);
    assert_eq!(code(&format!(r#"{{"op":"hello","agent":"{long}","token":"t"}}"#)).0, BadField);
}

#[test]
fn unknown_keys_are_ignored_and_defaults_filled_in() {
    let line = br#"{"later":[1],"op":"send","to":"b","type":"data","payload":{"a": 1}}"#;
    let ClientFrame::Send(send) = ClientFrame::decode(line).expect("decodes") else { panic!() };
    assert_eq!(send.priority, Priority::default());
    assert_eq!(send.payload.get(), r#"{"a": 1}"#, "the payload is kept to the byte");
}

#[test]
fn a_pushed_message_reads_back() {
    let body = MsgBody {
        topic: None,
        group: None,
        id: Uuid::nil(),
        from: "a\n",
        message_type: "data",
        priority: 3,
        created_at: "2026-01-01T00:00:00.000000Z",
        correlation_id: None,
        headers: None,
        payload: serde_json::from_str(r#"{"k":[1,2]}"#).expect("json"),
    };
    let mut line = Vec::new();
    push_msg(&mut line, u64::MAX, u32::MAX, u64::MAX, &body.encode());
    assert_eq!(line.iter().filter(|&&b| b == b'\n').count(), 1);
    assert!(line.len() - body.encode().len() <= super::super::limits::PUSH_HEAD_BYTES_MAX);
    let Ok(Some(ServerFrame::Msg(msg))) = ServerFrame::decode(line.trim_ascii_end()) else { panic!() };
    assert_eq!((msg.tag, msg.from.as_str(), msg.payload.get()), (u64::MAX, "a\n", r#"{"k":[1,2]}"#));
}

#[test]
fn a_newer_brokers_op_and_code_do_not_break_a_client() {
    assert!(ServerFrame::decode(br#"{"op":"confetti"}"#).expect("reads").is_none());
    let line = br#"{"op":"error","code":"made_up_later","fatal":true,"message":"m"}"#;
    let Ok(Some(ServerFrame::Error { code, fatal, .. })) = ServerFrame::decode(line) else { panic!() };
    assert_eq!((code, fatal), (ErrorCode::Unknown, true));
}

fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<char>().prop_filter("zero", |c| *c != '\0'), 1..20)
        .prop_map(|c| c.into_iter().collect())
}

proptest! {
    #[test]
    fn any_bytes_are_a_frame_or_a_refusal(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = ClientFrame::decode(&bytes);
        let _ = ServerFrame::decode(&bytes);
    }

    #[test]
    fn what_a_client_writes_a_broker_reads(
        to in text(), reference in proptest::option::of(text()), key in proptest::option::of(text()),
        priority in 1i64..=10, delay in proptest::option::of(0u64..DURATION_MS_MAX), payload in text(),
        tags in proptest::collection::vec(any::<u64>(), 1..50),
    ) {
        let payload = serde_json::value::to_raw_value(&payload).expect("json");
        let frame = ClientFrame::Send(Send {
            reference, to: Some(to), topic: None, environment: None, group: None, to_instance: None, ordering_key: None, message_type: MessageType::Query, priority: Priority::new(priority).expect("in range"),
            delay_ms: delay, ttl_ms: None, dedupe_key: key, correlation_id: None, headers: None, payload,
        });
        for frame in [frame, ClientFrame::Ack(Ack { tag: None, tags, reference: None })] {
            let mut line = Vec::new();
            push_line(&mut line, &frame);
            prop_assert_eq!(line.pop(), Some(b'\n'));
            prop_assert!(!line.contains(&b'\n'), "a frame is one line");
            let back = ClientFrame::decode(&line).expect("decodes");
            let mut again = Vec::new();
            push_line(&mut again, &back);
            again.pop();
            prop_assert_eq!(line, again);
        }
    }
}
