//! Contents on disk: bodies as they arrive, parts cut out of them, and their hashes. Memory does not grow with
//! their size.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use memchr::memmem;
use ring::digest::{Context, SHA256};
use tempfile::NamedTempFile;

use super::mime;

/// How much is read at once.
const CHUNK: usize = 64 * 1024;

/// Content being written.
pub(super) struct Writer {
    file: NamedTempFile,
    digest: Context,
    size: u64,
}

impl Writer {
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        let file = NamedTempFile::new_in(folder)?;
        Ok(Self { file, digest: Context::new(&SHA256), size: 0 })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.size += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    pub(super) fn finish(self) -> Spooled {
        Spooled { file: self.file, size: self.size, sha256: hex::encode(self.digest.finish()) }
    }
}

/// Content written whole, in a file that vanishes unless it is stored.
#[derive(Debug)]
pub(super) struct Spooled {
    file: NamedTempFile,
    pub(super) size: u64,
    /// Lower case hex.
    pub(super) sha256: String,
}

impl Spooled {
    pub(super) fn empty(folder: &Path) -> io::Result<Self> {
        Ok(Writer::new(folder)?.finish())
    }

    pub(super) fn open(&self) -> io::Result<File> {
        self.file.reopen()
    }

    /// The content, up to a limit.
    pub(super) fn read(&self, limit: usize) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        self.open()?.take(limit as u64).read_to_end(&mut out)?;
        Ok(out)
    }

    pub(super) fn mime_type(&self) -> io::Result<&'static str> {
        Ok(mime::detect(&self.read(mime::HEAD)?, self.size <= mime::HEAD as u64))
    }

    /// Moves the content to where it stays.
    pub(super) fn store(self, path: &Path) -> io::Result<()> {
        self.file.persist(path).map(drop).map_err(|error| error.error)
    }

    /// The bytes that the content stands for in base64, an announcement in front (`data:…;base64,`) left out.
    /// As PHP does it, characters outside of the alphabet are skipped.
    pub(super) fn decoded(&self, folder: &Path) -> io::Result<Self> {
        let mut reader = BufReader::with_capacity(CHUNK, self.open()?);
        let begin = reader.fill_buf()?;
        if begin.starts_with(b"data:")
            && let Some(at) = memmem::find(&begin[..begin.len().min(256)], b";base64,")
        {
            reader.consume(at + 8);
        }
        let mut out = Writer::new(folder)?;
        let (mut bits, mut count) = (0u32, 0u32);
        loop {
            let chunk = reader.fill_buf()?;
            if chunk.is_empty() {
                return Ok(out.finish());
            }
            let mut decoded = Vec::with_capacity(chunk.len());
            for value in chunk.iter().filter_map(|byte| base64_value(*byte)) {
                bits = bits << 6 | value;
                count += 6;
                if count >= 8 {
                    count -= 8;
                    decoded.push((bits >> count & 0xff) as u8);
                }
            }
            let length = chunk.len();
            reader.consume(length);
            out.write(&decoded)?;
        }
    }
}

fn base64_value(byte: u8) -> Option<u32> {
    let value = match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}

/// What a `multipart/form-data` body holds.
#[derive(Debug, Default)]
pub(super) struct Multipart {
    pub(super) fields: Vec<(String, String)>,
    /// Name and content of the first file.
    pub(super) file: Option<(String, Spooled)>,
}

/// Largest text field that is kept.
const FIELD_LIMIT: usize = CHUNK;

/// Takes a multipart body apart. What is broken off is as if it were not there.
pub(super) fn multipart(body: &Spooled, boundary: &str, folder: &Path) -> io::Result<Multipart> {
    let mut out = Multipart::default();
    let mut reader = BufReader::with_capacity(CHUNK, body.open()?);
    let delimiter = format!("\r\n--{boundary}");
    // The first boundary has no line end in front of it.
    if !skip_line(&mut reader)?.starts_with(format!("--{boundary}").as_bytes()) {
        return Ok(out);
    }
    loop {
        let (mut name, mut file_name) = (None, None);
        loop {
            let line = skip_line(&mut reader)?;
            if line.is_empty() {
                return Ok(out);
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end();
            if text.is_empty() {
                break;
            }
            if text.to_ascii_lowercase().starts_with("content-disposition:") {
                (name, file_name) = (parameter(text, "name"), parameter(text, "filename"));
            }
        }
        let mut part = Writer::new(folder)?;
        let last = copy_until(&mut reader, delimiter.as_bytes(), &mut part)?;
        let part = part.finish();
        match (name, file_name) {
            (_, Some(file_name)) if out.file.is_none() => out.file = Some((file_name, part)),
            (Some(name), None) => {
                let text = String::from_utf8_lossy(&part.read(FIELD_LIMIT)?).into_owned();
                out.fields.push((name, text));
            }
            _ => {}
        }
        if last {
            return Ok(out);
        }
    }
}

/// A line with its end; empty at the end of the content. Of a long one only the beginning.
fn skip_line(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    reader.take(FIELD_LIMIT as u64).read_until(b'\n', &mut line)?;
    Ok(line)
}

/// Copies up to the delimiter and steps over its line; true when it was the last one.
fn copy_until(
    reader: &mut BufReader<File>,
    delimiter: &[u8],
    out: &mut Writer,
) -> io::Result<bool> {
    let mut held = Vec::new();
    loop {
        let chunk = reader.fill_buf()?;
        let length = chunk.len();
        held.extend_from_slice(chunk);
        reader.consume(length);
        if let Some(at) = memmem::find(&held, delimiter) {
            out.write(&held[..at])?;
            let behind = held.len() - at - delimiter.len();
            reader.seek(SeekFrom::Current(-(behind as i64)))?;
            let rest = skip_line(reader)?;
            return Ok(rest.starts_with(b"--") || rest.is_empty());
        }
        if length == 0 {
            out.write(&held)?;
            return Ok(true);
        }
        let keep = held.len().saturating_sub(delimiter.len() - 1);
        out.write(&held[..keep])?;
        held.drain(..keep);
    }
}

/// A parameter of a header, in quotes or without.
pub(super) fn parameter(header: &str, name: &str) -> Option<String> {
    header.split(';').skip(1).find_map(|piece| {
        let (key, value) = piece.trim().split_once('=')?;
        let value = value.trim();
        let bare = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
        key.trim().eq_ignore_ascii_case(name).then(|| bare.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spooled(folder: &Path, bytes: &[u8]) -> Spooled {
        let mut writer = Writer::new(folder).unwrap();
        writer.write(bytes).unwrap();
        writer.finish()
    }

    #[test]
    fn parts_of_any_size_are_cut_out_whole() {
        let folder = tempfile::tempdir().unwrap();
        for length in [0, 1, CHUNK - 50, CHUNK - 3, CHUNK, 3 * CHUNK + 1] {
            // Full of beginnings of the delimiter.
            let content = b"\r\n--b".repeat(length / 5 + 1)[..length].to_vec();
            let body = [
                b"--bnd\r\nContent-Disposition: form-data; name=\"public\"\r\n\r\ntrue\r\n"
                    .as_slice(),
                b"--bnd\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.bin\"\r\n",
                b"Content-Type: text/plain\r\n\r\n",
                &content,
                b"\r\n--bnd--\r\n",
            ]
            .concat();
            let read = multipart(&spooled(folder.path(), &body), "bnd", folder.path()).unwrap();
            assert_eq!(read.fields, [("public".to_owned(), "true".to_owned())]);
            let (name, file) = read.file.unwrap();
            assert_eq!((name.as_str(), file.size), ("a.bin", length as u64));
            assert_eq!(file.read(usize::MAX).unwrap(), content);
        }
    }

    #[test]
    fn base64_is_decoded_with_its_announcement_left_out() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["aGVsbG8gd29ybGQ=", "data:text/plain;base64,aGVsbG8g\nd29ybGQ="] {
            let decoded = spooled(folder.path(), text.as_bytes()).decoded(folder.path()).unwrap();
            assert_eq!(decoded.read(100).unwrap(), b"hello world");
        }
    }
}
