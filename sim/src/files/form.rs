//! Forms as the server's framework reads them: which inputs it takes, what it makes of odd values, and the words
//! in which it complains.
//!
//! Complaints about composite inputs, and about inputs that nobody asked for, bubble up to the form itself
//! (`form`); those about single values stay where they are (`form.data.maxAllowedFileSize`).

use serde_json::{Map, Value};

use super::answer::Answer;

pub(super) const NOT_VALID: &str = "This value is not valid.";

/// Complaints collected while a form is read, in the order of their discovery.
#[derive(Debug, Default)]
pub(super) struct Form {
    fields: Vec<(String, Vec<String>)>,
}

impl Form {
    /// Reads the inputs of a JSON body. Anything but an object or array is no form at all.
    pub(super) fn inputs(body: &[u8]) -> Option<Map<String, Value>> {
        match serde_json::from_slice(body).ok()? {
            Value::Object(inputs) => Some(inputs),
            Value::Array(list) => {
                let indexed = list.into_iter().enumerate();
                Some(indexed.map(|(index, value)| (index.to_string(), value)).collect())
            }
            _ => None,
        }
    }

    pub(super) fn complain(&mut self, path: &str, message: &str) {
        match self.fields.iter_mut().find(|(known, _)| known == path) {
            Some((_, messages)) => messages.push(message.to_owned()),
            None => self.fields.push((path.to_owned(), vec![message.to_owned()])),
        }
    }

    /// Complains about inputs that the form does not have.
    pub(super) fn only(&mut self, inputs: &Map<String, Value>, known: &[&str]) {
        let extra: Vec<&str> =
            inputs.keys().map(String::as_str).filter(|name| !known.contains(name)).collect();
        if !extra.is_empty() {
            let names = extra.join("\", \"");
            let message =
                format!("This request does not support extra parameters such as \"{names}\"");
            self.complain("form", &message);
        }
    }

    /// A single text: trimmed, numbers and true as texts, null, false and blanks as nothing.
    pub(super) fn text(&mut self, path: &str, value: Option<&Value>) -> Option<String> {
        match scalar(value.unwrap_or(&Value::Null)) {
            Ok(text) => text,
            Err(NotScalar) => {
                self.complain(path, NOT_VALID);
                None
            }
        }
    }

    /// A list of texts, each treated as by [`Form::text`]. An object stays one.
    pub(super) fn texts(&mut self, path: &str, value: Option<&Value>) -> Value {
        let entries: Vec<(String, &Value)> = match value.unwrap_or(&Value::Null) {
            Value::Null | Value::Bool(false) => return Value::Array(Vec::new()),
            Value::String(text) if text.is_empty() => return Value::Array(Vec::new()),
            Value::Array(list) => {
                list.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect()
            }
            Value::Object(map) => map.iter().map(|(name, value)| (name.clone(), value)).collect(),
            _ => {
                self.complain("form", NOT_VALID);
                return Value::Array(Vec::new());
            }
        };
        let mut read = Map::new();
        for (name, value) in entries {
            let text = self.text(&format!("{path}.{name}"), Some(value));
            read.insert(name, text.map_or(Value::Null, Value::String));
        }
        match value {
            Some(Value::Object(_)) => Value::Object(read),
            _ => Value::Array(read.into_iter().map(|(_, text)| text).collect()),
        }
    }

    /// A whole number, also as a text; blanks, null and false are none.
    pub(super) fn integer(&mut self, path: &str, value: Option<&Value>) -> Option<i64> {
        let text = self.text(path, value)?;
        match whole_number(&text) {
            Some(number) => Some(number),
            None => {
                self.complain(path, NOT_VALID);
                None
            }
        }
    }

    /// `1`, `true`, `0`, `false`.
    pub(super) fn boolean(&mut self, path: &str, value: Option<&Value>) -> Option<bool> {
        match value {
            Some(Value::Bool(boolean)) => return Some(*boolean),
            Some(Value::Null) | None => return None,
            _ => {}
        }
        match self.text(path, value)?.as_str() {
            "1" | "true" => Some(true),
            "0" | "false" => Some(false),
            _ => {
                self.complain(path, NOT_VALID);
                None
            }
        }
    }

    /// The answer to a form with complaints.
    pub(super) fn finish(self) -> Result<(), Answer> {
        if self.fields.is_empty() { Ok(()) } else { Err(Answer::invalid(400, self.fields)) }
    }
}

struct NotScalar;

fn scalar(value: &Value) -> Result<Option<String>, NotScalar> {
    let text = match value {
        Value::Null | Value::Bool(false) => return Ok(None),
        Value::Bool(true) => "1".to_owned(),
        Value::Number(number) => number_text(&number.to_string()),
        Value::String(text) => text.trim().to_owned(),
        Value::Array(_) | Value::Object(_) => return Err(NotScalar),
    };
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// A number as PHP writes it: a whole one without a point or an exponent.
fn number_text(text: &str) -> String {
    let Ok(number) = text.parse::<f64>() else { return text.to_owned() };
    match text.contains(['.', 'e', 'E']) && number.fract() == 0.0 && number.abs() < 1e15 {
        true => format!("{number:.0}"),
        false => text.to_owned(),
    }
}

/// Strictly inside of what 64 bits hold.
fn whole_number(text: &str) -> Option<i64> {
    let number = match text.parse::<i64>() {
        Ok(number) => number,
        Err(_) => number_text(text).parse().ok()?,
    };
    (number != i64::MAX && number != i64::MIN).then_some(number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sizes_are_whole_numbers_however_they_are_written() {
        for (value, expected) in [
            (json!(14579), Ok(Some(14579))),
            (json!("14579"), Ok(Some(14579))),
            (json!(" 7 "), Ok(Some(7))),
            (json!(-1), Ok(Some(-1))),
            (json!(true), Ok(Some(1))),
            (json!(false), Ok(None)),
            (json!(""), Ok(None)),
            (json!(null), Ok(None)),
            (serde_json::from_str("1e3").unwrap(), Ok(Some(1000))),
            (json!(1.5), Err(())),
            (json!("14 579"), Err(())),
            (json!("many"), Err(())),
            (json!([1]), Err(())),
            (json!(i64::MAX), Err(())),
            (serde_json::from_str("99999999999999999999").unwrap(), Err(())),
        ] {
            let mut form = Form::default();
            let read = form.integer("form.size", Some(&value));
            assert_eq!(form.finish().map(|()| read).map_err(|_| ()), expected, "{value}");
        }
    }

    #[test]
    fn lists_keep_their_shape_and_lose_their_blanks() {
        for (value, expected) in [
            (json!([1, true, null, " x ", "", false]), json!(["1", "1", null, "x", null, null])),
            (json!({ "k": "v" }), json!({ "k": "v" })),
            (json!(null), json!([])),
        ] {
            let mut form = Form::default();
            assert_eq!(form.texts("form.tags", Some(&value)), expected);
            assert!(form.finish().is_ok());
        }
    }
}
