//! Blocks of code in a Markdown file, and the commands in those of the language `console`.

use std::path::Path;

/// A fenced block.
pub(super) struct Block<'a> {
    /// What stands behind the opening fence.
    pub(super) language: &'a str,
    /// Its lines, each with its end.
    pub(super) text: &'a str,
    /// Where it begins in the file.
    pub(super) line: usize,
}

/// A command that is shown, and what it printed.
pub(super) struct Shown {
    /// File and line.
    pub(super) at: String,
    /// Without the prompt.
    pub(super) command: String,
    /// All up to the next command or the block's end.
    pub(super) output: String,
}

/// The fenced blocks of a text.
pub(super) fn blocks(text: &str) -> impl Iterator<Item = Block<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let open = at + text[at..].find("```").filter(|n| starts_a_line(&text[at..], *n))?;
        let (language, rest) = text[open + 3..].split_once('\n')?;
        let begin = text.len() - rest.len();
        let end = begin + rest.find("\n```").map_or(rest.len(), |n| n + 1);
        at = text.len().min(end + 4);
        Some(Block { language, text: &text[begin..end], line: text[..open].lines().count() + 1 })
    })
}

fn starts_a_line(text: &str, at: usize) -> bool {
    at == 0 || text[..at].ends_with('\n')
}

/// The commands of a document, in order.
pub(super) fn shown(path: &Path, text: &str) -> Vec<Shown> {
    let mut all: Vec<Shown> = Vec::new();
    for block in blocks(text).filter(|block| block.language == "console") {
        for (n, line) in block.text.lines().enumerate() {
            if let Some(command) = line.strip_prefix("$ ") {
                let at = format!("{}:{}", path.display(), block.line + n + 1);
                all.push(Shown { at, command: command.to_owned(), output: String::new() });
            } else if let Some(last) = all.last_mut() {
                last.output.push_str(line);
                last.output.push('\n');
            }
        }
    }
    all
}
