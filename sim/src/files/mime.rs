//! MIME types by content, as file(1) 5.44 names them, for the kinds of files that devices send.
//!
//! Name and announced type of an upload play no part, as on the server.

/// How much of a file is looked at: what file(1) reads.
pub(super) const HEAD: usize = 1024 * 1024;
/// Lines that a table needs, when the text does not end before.
const CSV_LINES: usize = 10;

/// Beginnings that name a type: offset, bytes, type.
const MAGIC: &[(usize, &[u8], &str)] = &[
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (0, b"II*\0", "image/tiff"),
    (0, b"MM\0*", "image/tiff"),
    (0, b"\x1a\x45\xdf\xa3", "video/x-matroska"),
    (4, b"ftypqt", "video/quicktime"),
    (4, b"ftyp", "video/mp4"),
    (8, b"AVI ", "video/x-msvideo"),
    (8, b"WAVE", "audio/x-wav"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"OggS", "application/ogg"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"%!PS", "application/postscript"),
    (0, b"\x1f\x8b", "application/gzip"),
    (0, b"\x1f\x9d", "application/x-compress"),
    (0, b"\xfd7zXZ\0", "application/x-xz"),
    (0, b"BZh", "application/x-bzip2"),
    (0, b"\x28\xb5\x2f\xfd", "application/zstd"),
    (0, b"\x04\x22\x4d\x18", "application/x-lz4"),
    (0, b"LZIP", "application/x-lzip"),
    (0, b"\x89LZO\0\r\n\x1a\n", "application/x-lzop"),
    (0, b"\x5d\0\0", "application/x-lzma"),
    (0, b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (0, b"Rar!\x1a\x07", "application/x-rar"),
    (0, b"\x60\xea", "application/x-arj"),
    (7, b"**ACE**", "application/x-ace-compressed"),
    (257, b"ustar", "application/x-tar"),
    (0, b"070701", "application/x-cpio"),
    (0, b"070707", "application/x-cpio"),
    (0, b"SQLite format 3\0", "application/vnd.sqlite3"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/CDFV2"),
];

/// The type of a file that begins so. `whole` says that there is no more of it.
pub(super) fn detect(head: &[u8], whole: bool) -> &'static str {
    if head.is_empty() {
        return "inode/x-empty";
    }
    if whole && is_json(head) {
        return "application/json";
    }
    let is_text = is_text(head, whole);
    if is_text && is_csv(head) {
        return "text/csv";
    }
    let found = MAGIC
        .iter()
        .find(|(at, bytes, _)| head.get(*at..).is_some_and(|rest| rest.starts_with(bytes)));
    match found {
        Some((.., kind)) => kind,
        None if head.starts_with(b"PK\x03\x04") => zip(head),
        None if head.starts_with(b"\x7fELF") => elf(head),
        None if is_text => text(head),
        None => "application/octet-stream",
    }
}

fn text(head: &[u8]) -> &'static str {
    let begin = &head[..head.len().min(4096)];
    let begin = String::from_utf8_lossy(begin).to_ascii_lowercase();
    let begin = begin.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']);
    if begin.starts_with("<?xml") {
        return if begin.contains("<svg") { "image/svg+xml" } else { "text/xml" };
    }
    if ["<!doctype html", "<html", "<head"].iter().any(|tag| begin.starts_with(tag)) {
        return "text/html";
    }
    if begin.starts_with("<svg") {
        return "image/svg+xml";
    }
    match begin.strip_prefix("#!").and_then(|rest| rest.lines().next()) {
        Some(line) if line.contains("python") => "text/x-script.python",
        Some(line) if line.contains("perl") => "text/x-perl",
        Some(line) if line.contains("sh") => "text/x-shellscript",
        _ => "text/plain",
    }
}

/// An archive whose first entry names the type, as office documents have it.
fn zip(head: &[u8]) -> &'static str {
    const OPEN_DOCUMENTS: [&str; 3] = [
        "application/vnd.oasis.opendocument.presentation",
        "application/vnd.oasis.opendocument.spreadsheet",
        "application/vnd.oasis.opendocument.text",
    ];
    let entry = head.get(30..).unwrap_or_default();
    if let Some(kind) = entry.strip_prefix(b"mimetype") {
        let kind = OPEN_DOCUMENTS.into_iter().find(|name| kind.starts_with(name.as_bytes()));
        return kind.unwrap_or("application/zip");
    }
    let contains = |needle: &[u8]| memchr::memmem::find(head, needle).is_some();
    if entry.starts_with(b"[Content_Types].xml") && contains(b"word/") {
        return "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
    }
    "application/zip"
}

fn elf(head: &[u8]) -> &'static str {
    match head.get(16) {
        Some(1) => "application/x-object",
        Some(3) => "application/x-pie-executable",
        _ => "application/x-executable",
    }
}

fn is_json(head: &[u8]) -> bool {
    let begins = head.iter().find(|byte| !byte.is_ascii_whitespace());
    matches!(begins, Some(b'{' | b'['))
        && serde_json::from_slice::<serde::de::IgnoredAny>(head).is_ok()
}

/// The same number of commas in every line, and more than two lines. Only the first ones are looked at.
fn is_csv(head: &[u8]) -> bool {
    let (mut lines, mut commas, mut wanted, mut quoted) = (0, 0, 0, false);
    for byte in head {
        match byte {
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b',' => commas += 1,
            b'\n' => {
                lines += 1;
                if lines == CSV_LINES {
                    return wanted == commas && wanted > 0;
                }
                if lines == 1 {
                    wanted = commas;
                }
                if commas == 0 || commas != wanted {
                    return false;
                }
                commas = 0;
            }
            _ => {}
        }
    }
    lines > 2
}

/// No byte that texts do not have; UTF-8, or else Latin-1.
fn is_text(head: &[u8], whole: bool) -> bool {
    if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
        return true;
    }
    let control = |byte: &u8| matches!(byte, 0..=6 | 14..=26 | 28..=31 | 127);
    if head.iter().any(control) {
        return false;
    }
    match std::str::from_utf8(head) {
        Ok(_) => true,
        // A character that the end of the head cuts.
        Err(error) if error.error_len().is_none() && !whole => true,
        Err(_) => !head.iter().any(|byte| matches!(byte, 0x80..=0x84 | 0x86..=0x9f)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_named_as_file_names_them() {
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        for (content, expected) in [
            (&b""[..], "inode/x-empty"),
            (b"hello\n", "text/plain"),
            ("Gr\u{fc}\u{df}e\n".as_bytes(), "text/plain"),
            (b"Gr\xfc\xdfe\n", "text/plain"),
            (b"\x00\x01\x02\x03", "application/octet-stream"),
            (b"{\"a\": 1}\n", "application/json"),
            (b"[1, 2]", "application/json"),
            (b"{\"a\": 1", "text/plain"),
            (b"12", "text/plain"),
            (b"a,b\n1,2\n3,4\n", "text/csv"),
            (b"a,b\n1,2\n", "text/plain"),
            (b"a,b\n1,2\n3\n", "text/plain"),
            (b"<?xml version=\"1.0\"?><a/>", "text/xml"),
            (b"<!DOCTYPE html><p>", "text/html"),
            (b"#!/bin/sh\n", "text/x-shellscript"),
            (b"\x89PNG\r\n\x1a\n....", "image/png"),
            (b"\xff\xd8\xff\xe0", "image/jpeg"),
            (b"RIFF....WEBPVP8 ", "image/webp"),
            (b"\x1f\x8b\x08\0", "application/gzip"),
            (b"\xfd7zXZ\0..", "application/x-xz"),
            (b"BZh9", "application/x-bzip2"),
            (b"\x28\xb5\x2f\xfd\x04", "application/zstd"),
            (b"SQLite format 3\0", "application/vnd.sqlite3"),
            (&tar, "application/x-tar"),
            (b"PK\x03\x04..", "application/zip"),
        ] {
            assert_eq!(detect(content, true), expected, "{}", String::from_utf8_lossy(content));
        }
        assert_eq!(detect("a\u{fc}".as_bytes().split_at(2).0, false), "text/plain");
    }
}
