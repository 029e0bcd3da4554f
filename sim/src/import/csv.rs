//! Comma separated values as RFC 4180 has them; cells trimmed, as the server does.

/// One record and the line on which it began, from 1.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) line: usize,
    pub(super) cells: Vec<String>,
}

/// All records; empty lines are skipped. `Err` is the line on which a quoted cell began that never ends.
pub(super) fn parse(text: &str) -> Result<Vec<Record>, usize> {
    let mut records = Vec::new();
    let mut characters = text.chars().peekable();
    let mut line = 1;
    while characters.peek().is_some() {
        let begun = line;
        let mut cells = Vec::new();
        let mut cell = String::new();
        let mut was_quoted = false;
        loop {
            match characters.next() {
                Some('"') if cell.trim().is_empty() && !was_quoted => {
                    was_quoted = true;
                    cell.clear();
                    loop {
                        match characters.next() {
                            Some('"') if characters.next_if_eq(&'"').is_some() => cell.push('"'),
                            Some('"') => break,
                            Some(other) => {
                                line += usize::from(other == '\n');
                                cell.push(other);
                            }
                            None => return Err(begun),
                        }
                    }
                }
                Some(',') => {
                    cells.push(std::mem::take(&mut cell).trim().to_owned());
                    was_quoted = false;
                }
                Some('\n') | None => break,
                Some(other) => cell.push(other),
            }
        }
        line += 1;
        cells.push(cell.trim().to_owned());
        if cells.len() > 1 || cells.iter().any(|cell| !cell.is_empty()) {
            records.push(Record { line: begun, cells });
        }
    }
    Ok(records)
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
