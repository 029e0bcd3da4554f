//! The fields of a line as text.
//!
//! ```text
//! source down event="source.down" source_id=/site/meter unit_id=7 reason="no answer" error="said \"no\""
//! ```
//!
//! What is text in the program is in quotation marks; any other value only where it is empty or has white space, a
//! quotation mark, `=` or a control character. So a line always falls into the same fields again, and stays one line.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FormatFields, format::Writer},
};

/// Writes fields in this form.
pub(super) struct PlainFields;

impl<'writer> FormatFields<'writer> for PlainFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = Line { writer, is_empty: true, result: Ok(()) };
        fields.record(&mut line);
        line.result
    }
}

struct Line<'writer> {
    writer: Writer<'writer>,
    is_empty: bool,
    result: fmt::Result,
}

impl Line<'_> {
    /// A field, unless an earlier one could not be written.
    fn put(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let space = if std::mem::take(&mut self.is_empty) { "" } else { " " };
        let name = field.name();
        self.result = self.result.and_then(|()| match name {
            "message" => write!(self.writer, "{space}{value}"),
            // Italic and dimmed.
            _ if self.writer.has_ansi_escapes() => {
                write!(self.writer, "{space}\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{value}")
            }
            _ => write!(self.writer, "{space}{name}={value}"),
        });
    }
}

impl Visit for Line<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.put(field, format_args!("{}", Escaped(value))),
            _ => self.put(field, format_args!("{value:?}")),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        // A string takes everything; a value that cannot be shown is left as far as it came.
        write!(text, "{value:?}").ok();
        if field.name() == "message" || is_one_word(&text) {
            self.put(field, format_args!("{}", Escaped(&text)));
        } else {
            self.put(field, format_args!("{text:?}"));
        }
    }
}

fn is_one_word(text: &str) -> bool {
    let splits = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '=');
    !text.is_empty() && !text.contains(splits)
}

/// Text without control characters, which could end the line or move the cursor.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c.is_control() {
            true => write!(f, "{}", c.escape_default()),
            false => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    /// Keeps what is written.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Kept {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    /// The line of an event, from its message on.
    fn line(log: impl FnOnce()) -> String {
        let kept = Kept::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(kept.clone())
            .with_ansi(false)
            .with_target(false)
            .without_time()
            .fmt_fields(PlainFields)
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(kept.0.lock().expect("no panic").clone()).expect("text")
    }

    #[test]
    fn values_that_would_run_into_the_next_field_are_quoted_and_others_are_as_they_are() {
        let (error, until, none) = ("said \"no\"\nat = 3", "2026-11-22T10:00:00Z", "");
        let said = line(|| {
            tracing::warn!(event = "source.down", unit_id = 7, %error, %until, %none, up = false, "gone");
        });
        let fields = r#"event="source.down" unit_id=7 error="said \"no\"\nat = 3" until=2026-11-22T10:00:00Z none="" up=false"#;
        assert_eq!(said, format!(" WARN gone {fields}\n"));
    }

    #[test]
    fn a_line_stays_one_line_and_moves_no_cursor() {
        let foreign = "two\nlines \x1b[2J";
        let said = line(|| tracing::warn!("{foreign}"));
        assert_eq!(said, " WARN two\\nlines \\u{1b}[2J\n");
    }
}
