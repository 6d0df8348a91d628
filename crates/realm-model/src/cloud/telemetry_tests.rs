//! Ids, headers and values of telemetry, as strangers write them.

use super::*;

#[track_caller]
fn check(traceparent: &str, expected: Option<(u8, u8, bool)>) {
    let read = SpanContext::parse(traceparent, "a=b");
    let seen = read.map(|context| (context.trace[15], context.span[7], context.sampled));
    assert_eq!(seen, expected, "{traceparent}");
}

#[test]
fn a_traceparent_is_read_as_the_specification_says() {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let span = "b7ad6b7169203331";
    check(&format!("00-{trace}-{span}-01"), Some((0x9c, 0x31, true)));
    check(&format!("00-{trace}-{span}-00"), Some((0x9c, 0x31, false)));
    // Other flags are for others.
    check(&format!("00-{trace}-{span}-03"), Some((0x9c, 0x31, true)));
    check(&format!("cc-{trace}-{span}-01"), Some((0x9c, 0x31, true)));
    check(
        &format!("cc-{trace}-{span}-01-more"),
        Some((0x9c, 0x31, true)),
    );
    for wrong in [
        format!("00-{trace}-{span}-01-more"),
        format!("cc-{trace}-{span}-01more"),
        format!("ff-{trace}-{span}-01"),
        format!("00-{trace}-{span}"),
        format!("00-{trace}-{span}-1"),
        format!("00-{trace}-{span}-0ä"),
        format!("00-{}-{span}-01", trace.to_uppercase()),
        format!("00-{}-{span}-01", "0".repeat(32)),
        format!("00-{trace}-{}-01", "0".repeat(16)),
        format!("00-{trace}0-{span}-01"),
        format!(" 00-{trace}-{span}-01"),
        String::new(),
        "-".repeat(100),
    ] {
        check(&wrong, None);
    }
}

#[test]
fn ids_are_digits_and_not_all_zeros() {
    assert_eq!(id::<2>("0aff"), Some([10, 255]));
    assert_eq!(hex(&[10, 255]), "0aff");
    for wrong in ["", "0000", "0AFF", "0af", "0aff0", "+aff", "0a f"] {
        assert_eq!(id::<2>(wrong), None, "{wrong}");
    }
}

#[track_caller]
fn value(json: &str, expected: Value) {
    assert_eq!(Value::parse(json), expected, "{json}");
}

#[test]
fn values_are_json_and_what_is_not_is_text() {
    value("true", Value::Bool(true));
    value("-7", Value::Int(-7));
    value(
        "18446744073709551615",
        Value::Double(18446744073709551615.0),
    );
    value("1.5", Value::Double(1.5));
    value("null", Value::Empty);
    value("\"a\\nb\"", Value::Text("a\nb".to_owned()));
    value("\"{base64}:AAE=\"", Value::Bytes(vec![0, 1]));
    value("\"{base64}:?\"", Value::Text("{base64}:?".to_owned()));
    value(
        "[1,{\"a\":\"b\"}]",
        Value::List(vec![
            Value::Int(1),
            Value::Map(vec![("a".to_owned(), Value::Text("b".to_owned()))]),
        ]),
    );
    for text in ["plain", "", "NaN", "1e999", "{", "\"open"] {
        value(text, Value::Text(text.to_owned()));
    }
}

#[test]
fn values_have_an_end() {
    let long = format!("\"{}\"", "ä".repeat(10_000_000));
    let Value::Text(text) = Value::parse(&long) else {
        panic!("it is text");
    };
    assert!(text.len() <= ATTRIBUTE_BYTES_MAX && text.starts_with('ä'));
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    assert!(Value::parse(&deep).plain().contains("too deep"));
    let Value::List(items) = Value::parse(&format!("[{}1]", "1,".repeat(1_000))) else {
        panic!("it is a list");
    };
    assert_eq!(items.len(), ATTRIBUTE_ITEMS_MAX);
}

proptest::proptest! {
    #[test]
    fn any_header_and_any_value_is_read_or_not(text in ".{0,80}", json in "[\\[\\]{}\",:0-9a-z\\\\. -]{0,200}") {
        if let Some(context) = SpanContext::parse(&text, "") {
            proptest::prop_assert!(context.trace != [0; 16] && context.span != [0; 8]);
        }
        // Text of JSON grows where it is escaped, and by no more.
        let plain = Value::parse(&json).plain();
        proptest::prop_assert!(plain.len() <= json.len() * 6 + 16);
        let _ = Value::parse(&text);
    }
}
