//! Answers of Prometheus' `/api/v1/query`, read. Formats: <https://prometheus.io/docs/prometheus/latest/querying/api/>.

use serde::Deserialize;
use serde_json::Value;

use super::Answer;

/// How much of what a server says is repeated in a message.
const QUOTE_CHARS_MAX: usize = 120;

#[derive(Deserialize)]
struct Body {
    status: String,
    #[serde(default)]
    error: String,
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "resultType")]
    kind: String,
    result: Value,
}

/// What a status and a body mean.
pub fn read(status: u16, body: &[u8]) -> Answer {
    let Ok(body) = serde_json::from_slice::<Body>(body) else {
        let quote = quoted(&String::from_utf8_lossy(body));
        return Answer::Malformed(format!("HTTP {status}, and it begins with `{quote}`"));
    };
    if body.status != "success" {
        return Answer::Refused(format!("HTTP {status}: {}", quoted(&body.error)));
    }
    let Some(data) = body.data else { return Answer::Malformed("it has no `data`".to_owned()) };
    match (data.kind.as_str(), data.result) {
        ("vector", Value::Array(series)) => match series.as_slice() {
            [] => Answer::NoData,
            [one] => sample(one.get("value")),
            many => Answer::Many(many.len()),
        },
        ("scalar", value) => sample(Some(&value)),
        (kind, _) => Answer::Malformed(format!("its result is a {}, where a vector is wanted", quoted(kind))),
    }
}

/// `[time, "number"]`.
fn sample(pair: Option<&Value>) -> Answer {
    let text = pair.and_then(|pair| pair.get(1)).and_then(Value::as_str);
    let Some(text) = text else { return Answer::Malformed("its sample has no value".to_owned()) };
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Answer::Value(number),
        Ok(_) => Answer::NotFinite(quoted(text)),
        Err(_) => Answer::Malformed(format!("`{}` is no number", quoted(text))),
    }
}

fn quoted(text: &str) -> String {
    let mut quote: String = text.trim().chars().filter(|c| !c.is_control()).take(QUOTE_CHARS_MAX).collect();
    if quote.is_empty() {
        quote.push_str("nothing");
    }
    quote
}
