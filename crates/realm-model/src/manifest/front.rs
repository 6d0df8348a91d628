//! Reads what holds for the requests of a component before anybody answers them: `per_client`,
//! `rules` and `cache`. What they mean is in [`crate::front`].

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::DeValue;

use super::value::ValueError;
use super::{Serve, host, keys, path};
use crate::block::{Block, BlockError};
use crate::codes;
use crate::fields::{Fields, Placed, Report, cut, fits, rows};
use crate::front::{Front, PerClient, RULE_ITEMS_MAX, RULES_MAX, Rule, RuleAction, ValuePattern};

/// The keys that stand at the component.
const KEYS: [&str; 3] = ["per_client", "rules", "cache"];

/// Reads them. What never answers requests has no use for them.
pub(super) fn read(
    report: &mut Report<'_>,
    fields: &Fields<'_, '_>,
    serve: Option<Serve>,
) -> Front {
    let takes_requests = match serve {
        Some(Serve::Http | Serve::Cgi | Serve::Socket) | None => true,
        Some(Serve::Service | Serve::Job | Serve::Worker) => false,
    };
    if !takes_requests {
        for key in KEYS {
            if let Some(span) = fields.key_span(key) {
                let message = format!("`{key}` has no effect: no requests come to it");
                report.warning(codes::NO_EFFECT, span, message, None);
            }
        }
    }
    Front {
        per_client: per_client(report, fields),
        rules: rules(report, fields),
        cache: fields.boolean(report, "cache"),
    }
}

fn per_client(report: &mut Report<'_>, fields: &Fields<'_, '_>) -> Option<PerClient> {
    let value = fields.value(report, "per_client")?;
    let place = fields.key_span("per_client").unwrap_or(value.span());
    let table = Fields::open(report, value, &keys::PER_CLIENT, place, "")?;
    let number = |report: &mut Report<'_>, key| {
        let number = table.integer(report, key)?;
        u32::try_from(number).ok()
    };
    let requests_per_sec = number(report, "requests_per_sec");
    let burst = number(report, "burst");
    let requests_per_sec = requests_per_sec?;
    Some(PerClient {
        requests_per_sec,
        burst: burst.unwrap_or(requests_per_sec),
    })
}

fn rules(report: &mut Report<'_>, fields: &Fields<'_, '_>) -> Vec<Rule> {
    let Some(value) = fields.value(report, "rules") else {
        return Vec::new();
    };
    let rows = rows(report, value, &keys::RULE, "rules");
    let place = fields.key_span("rules").unwrap_or(value.span());
    fits(report, "rules", rows.len(), RULES_MAX, place);
    let rows = rows.iter().take(RULES_MAX);
    rows.filter_map(|row| rule(report, row)).collect()
}

fn rule(report: &mut Report<'_>, row: &Fields<'_, '_>) -> Option<Rule> {
    let action = row.choice(report, "action", &[RuleAction::Deny, RuleAction::Allow]);
    let clients = row.texts(report, "clients", client);
    let hosts = row.texts(report, "hosts", host::route_host);
    let methods = row.texts(report, "methods", method);
    let paths = row.texts(report, "paths", path::route_path);
    Some(Rule {
        clients: items(report, row, "clients", clients),
        hosts: items(report, row, "hosts", hosts),
        methods: items(report, row, "methods", methods),
        paths: items(report, row, "paths", paths),
        headers: headers(report, row),
        action: action?,
    })
}

/// The items of a list. One that is there and empty would be met by every request.
fn items<T>(
    report: &mut Report<'_>,
    row: &Fields<'_, '_>,
    key: &str,
    items: Vec<Placed<T>>,
) -> Vec<T> {
    check_count(report, row, key);
    items.into_iter().map(|(item, _)| item).collect()
}

fn check_count(report: &mut Report<'_>, row: &Fields<'_, '_>, key: &str) {
    let count = match row.value(report, key).map(Spanned::get_ref) {
        Some(DeValue::Array(items)) => items.len(),
        Some(DeValue::Table(items)) => items.len(),
        // What is no list is reported where it is read.
        Some(_) | None => return,
    };
    let span = row.value_span(key);
    fits(report, key, count, RULE_ITEMS_MAX, span.clone());
    if count == 0 {
        let message = format!("`{key}` names nothing");
        let hint = format!("leave `{key}` out where it does not matter");
        report.error(codes::BAD_VALUE, span, message, Some(hint));
    }
}

fn headers(report: &mut Report<'_>, row: &Fields<'_, '_>) -> BTreeMap<String, ValuePattern> {
    let written = row.text_table(report, "headers");
    check_count(report, row, "headers");
    let mut headers = BTreeMap::new();
    for ((name, name_span), (value, span)) in written {
        let name = match header(&name) {
            Ok(name) => name,
            Err(error) => {
                report.value_error(name_span, error);
                continue;
            }
        };
        match value.parse::<ValuePattern>() {
            Ok(pattern) if headers.contains_key(&name) => {
                let message = format!("`{name}` stands here twice, as `{pattern}` as well");
                report.error(codes::DUPLICATE_VALUE, name_span, message, None);
            }
            Ok(pattern) => {
                headers.insert(name, pattern);
            }
            Err(error) => {
                let message = format!("`{}` is compared with no value: {error}", cut(&value));
                report.error(codes::BAD_VALUE, span, message, None);
            }
        }
    }
    headers
}

/// The name of a header that reaches components: others would never be met.
fn header(text: &str) -> Result<String, ValueError> {
    let name = text.to_ascii_lowercase();
    let error = |message: String, hint: Option<&str>| {
        Err(ValueError::new(codes::BAD_NAME, message).hint(hint))
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if name.is_empty() || name.len() > 256 || !name.bytes().all(is_plain) {
        let message = format!("`{}` is not the name of a header", cut(text));
        let hint = "letters, digits and `-`: headers of other names reach no component";
        return error(message, Some(hint));
    }
    if name == "host" {
        let message = "a host has several spellings".to_owned();
        return error(message, Some("write `hosts = [\"shop.example.com\"]`"));
    }
    Ok(name)
}

fn client(text: &str) -> Result<Block, ValueError> {
    text.parse().map_err(|error: BlockError| {
        let message = format!("`{}` is not a CIDR block: {error}", cut(text));
        ValueError::new(codes::BAD_VALUE, message)
    })
}

/// Methods are told apart by case (RFC 9110 §9.1), and all that are known are in capitals.
fn method(text: &str) -> Result<String, ValueError> {
    let is_method = |byte: u8| byte.is_ascii_uppercase() || byte == b'-';
    if text.is_empty() || text.len() > 32 || !text.bytes().all(is_method) {
        let message = format!("`{}` is not a method", cut(text));
        let upper = text.to_ascii_uppercase();
        let hint = upper.bytes().all(is_method) && !text.is_empty();
        let hint = hint.then(|| format!("write `{}`", cut(&upper)));
        return Err(ValueError::new(codes::BAD_VALUE, message).hint(hint));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::parse;

    /// The codes of the problems of a component with these keys.
    fn problems(keys: &str) -> Vec<&'static str> {
        let text = format!("[components.a]\nsource = \"file:a\"\n{keys}");
        let (_, problems) = parse(&text);
        problems.into_iter().map(|problem| problem.code).collect()
    }

    fn front(keys: &str) -> Front {
        let text = format!("[components.a]\nsource = \"file:a\"\n{keys}");
        let (manifest, problems) = parse(&text);
        let manifest = manifest.unwrap_or_else(|| panic!("{problems:?}"));
        manifest.components.into_values().next().unwrap().front
    }

    #[test]
    fn a_client_has_a_bucket_as_large_as_what_fills_it() {
        let of = |keys: &str| front(keys).per_client;
        assert_eq!(of(""), None);
        let burst = |burst| PerClient {
            requests_per_sec: 10,
            burst,
        };
        let written = of("per_client = { requests_per_sec = 10, burst = 20 }");
        assert_eq!(written, Some(burst(20)));
        let written = of("per_client = { requests_per_sec = 10 }");
        assert_eq!(written, Some(burst(10)));
    }

    #[test]
    fn rules_read_as_they_are_written() {
        let front = front(
            r#"
            [[components.a.rules]]
            action = "allow"
            clients = ["10.0.0.0/8", "fd00::/8"]
            hosts = ["Admin.example.com", "*.example.org"]
            methods = ["GET"]
            paths = ["/admin/...", "/health"]
            headers = { X-Key = "*Good*" }
            [[components.a.rules]]
            action = "deny"
            "#,
        );
        let written: Vec<String> = front.rules.iter().map(ToString::to_string).collect();
        assert_eq!(
            written,
            [
                "{ action = \"allow\", clients = [\"10.0.0.0/8\", \"fd00::/8\"], \
                 hosts = [\"admin.example.com\", \"*.example.org\"], methods = [\"GET\"], \
                 paths = [\"/admin/...\", \"/health\"], headers = { x-key = \"*good*\" } }",
                "{ action = \"deny\" }",
            ]
        );
    }

    #[test]
    fn what_would_never_do_what_it_says_is_refused() {
        let rule = |keys: &str| problems(&format!("rules = [{{ {keys} }}]"));
        assert_eq!(rule("action = \"deny\""), [""; 0]);
        assert_eq!(rule("paths = [\"/a\"]"), [codes::MISSING_KEY]);
        assert_eq!(rule("action = \"block\""), [codes::BAD_VALUE]);
        let deny = |keys: &str| rule(&format!("action = \"deny\", {keys}"));
        assert_eq!(deny("paths = []"), [codes::BAD_VALUE]);
        assert_eq!(deny("headers = {}"), [codes::BAD_VALUE]);
        assert_eq!(deny("paths = [\"/%61\"]"), [codes::BAD_PATH]);
        assert_eq!(deny("hosts = [\"a/b\"]"), [codes::BAD_HOST]);
        assert_eq!(deny("methods = [\"get\"]"), [codes::BAD_VALUE]);
        assert_eq!(deny("clients = [\"10.0.0.1/8\"]"), [codes::BAD_VALUE]);
        assert_eq!(deny("clients = [\"anybody\"]"), [codes::BAD_VALUE]);
        assert_eq!(deny("headers = { host = \"a\" }"), [codes::BAD_NAME]);
        assert_eq!(deny("headers = { x_key = \"a\" }"), [codes::BAD_NAME]);
        assert_eq!(deny("headers = { x-key = \"a*b\" }"), [codes::BAD_VALUE]);
        assert_eq!(
            deny("headers = { x-key = \"a\", X-Key = \"b\" }"),
            [codes::DUPLICATE_VALUE]
        );
        assert_eq!(problems("per_client = { burst = 1 }"), [codes::MISSING_KEY]);
        let many = vec!["{ action = \"deny\" }"; RULES_MAX + 1].join(", ");
        assert_eq!(problems(&format!("rules = [{many}]")), [codes::TOO_LARGE]);
    }

    #[test]
    fn what_takes_no_requests_needs_no_limit_of_them() {
        let keys = "serve = \"job\"\nper_client = { requests_per_sec = 1 }\n\
                    rules = [{ action = \"deny\" }]\ncache = true";
        assert_eq!(problems(keys), [codes::NO_EFFECT; 3]);
    }
}
