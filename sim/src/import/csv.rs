//! Comma separated values as RFC 4180 has them; cells trimmed, as the server does.

use std::borrow::Cow;

/// One record and the line on which it began, from 1.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) line: usize,
    pub(super) cells: Vec<String>,
}

/// All records; empty lines are skipped. `Err` is the line of the record with a quoted cell that never ends.
pub(super) fn parse(text: &str) -> Result<Vec<Record>, usize> {
    let mut records = Vec::new();
    let mut rest = text;
    let mut line = 1;
    while !rest.is_empty() {
        let begun = line;
        let mut cells = Vec::new();
        loop {
            let (cell, after) = take_cell(rest).ok_or(begun)?;
            line += cell.bytes().filter(|byte| *byte == b'\n').count();
            cells.push(cell.trim().to_owned());
            match after.strip_prefix(',') {
                Some(next) => rest = next,
                None => {
                    rest = after.strip_prefix('\n').unwrap_or(after);
                    break;
                }
            }
        }
        line += 1;
        if cells.iter().any(|cell| !cell.is_empty()) {
            records.push(Record { line: begun, cells });
        }
    }
    Ok(records)
}

/// A cell, and the text from the separator on that ends it. `None` when a quote is never closed.
fn take_cell(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let end_of = |text: &str| text.find([',', '\n']).unwrap_or(text.len());
    let Some(mut quoted) = text.trim_start_matches([' ', '\t']).strip_prefix('"') else {
        let (cell, after) = text.split_at(end_of(text));
        return Some((cell.into(), after));
    };
    let mut cell = String::new();
    loop {
        let (piece, after) = quoted.split_once('"')?;
        cell.push_str(piece);
        match after.strip_prefix('"') {
            Some(next) => {
                cell.push('"');
                quoted = next;
            }
            None => {
                // What follows the closing quote still belongs to the cell.
                let (tail, after) = after.split_at(end_of(after));
                cell.push_str(tail.trim());
                return Some((cell.into(), after));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hide_commas_line_ends_and_quotes() {
        let text = "a, b ,\"c,\"\"d\"\"\ne\"\r\n\r\n1,,3\n";
        let expected = [
            Record { line: 1, cells: vec!["a".into(), "b".into(), "c,\"d\"\ne".into()] },
            Record { line: 4, cells: vec!["1".into(), String::new(), "3".into()] },
        ];
        assert_eq!(parse(text).unwrap(), expected);
        assert_eq!(parse("a\n\"b"), Err(2));
    }
}
