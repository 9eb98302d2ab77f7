//! Writing values to a buffer, each in its shortest form.
//!
//! Encoding cannot fail. Lengths are those of slices in memory; the callers' limits keep them far below 4 GiB.

#![expect(
    clippy::cast_possible_truncation,
    reason = "lengths are checked to be below the narrower type, or bounded by frame sizes"
)]

/// Appends null.
pub fn put_null(buf: &mut Vec<u8>) {
    buf.push(0x40);
}

/// Appends a boolean.
pub fn put_bool(buf: &mut Vec<u8>, value: bool) {
    buf.push(if value { 0x41 } else { 0x42 });
}

/// Appends a ubyte.
pub fn put_ubyte(buf: &mut Vec<u8>, value: u8) {
    buf.extend_from_slice(&[0x50, value]);
}

/// Appends a ushort.
pub fn put_ushort(buf: &mut Vec<u8>, value: u16) {
    let [a, b] = value.to_be_bytes();
    buf.extend_from_slice(&[0x60, a, b]);
}

/// Appends a uint.
pub fn put_uint(buf: &mut Vec<u8>, value: u32) {
    match value {
        0 => buf.push(0x43),
        1..=255 => buf.extend_from_slice(&[0x52, value as u8]),
        _ => wide4(buf, 0x70, value.to_be_bytes()),
    }
}

/// Appends a ulong.
pub fn put_ulong(buf: &mut Vec<u8>, value: u64) {
    match value {
        0 => buf.push(0x44),
        1..=255 => buf.extend_from_slice(&[0x53, value as u8]),
        _ => wide8(buf, 0x80, value.to_be_bytes()),
    }
}

/// Appends an int.
pub fn put_int(buf: &mut Vec<u8>, value: i32) {
    match i8::try_from(value) {
        Ok(small) => buf.extend_from_slice(&[0x54, small as u8]),
        Err(_) => wide4(buf, 0x71, value.to_be_bytes()),
    }
}

/// Appends a long.
pub fn put_long(buf: &mut Vec<u8>, value: i64) {
    match i8::try_from(value) {
        Ok(small) => buf.extend_from_slice(&[0x55, small as u8]),
        Err(_) => wide8(buf, 0x81, value.to_be_bytes()),
    }
}

/// Appends a double.
pub fn put_double(buf: &mut Vec<u8>, value: f64) {
    wide8(buf, 0x82, value.to_be_bytes());
}

/// Appends a timestamp: milliseconds since 1970.
pub fn put_timestamp(buf: &mut Vec<u8>, millis: i64) {
    wide8(buf, 0x83, millis.to_be_bytes());
}

/// Appends a uuid.
pub fn put_uuid(buf: &mut Vec<u8>, value: &[u8; 16]) {
    buf.push(0x98);
    buf.extend_from_slice(value);
}

/// Appends a binary.
pub fn put_binary(buf: &mut Vec<u8>, value: &[u8]) {
    sized(buf, 0xa0, value);
}

/// Appends a string.
pub fn put_str(buf: &mut Vec<u8>, value: &str) {
    sized(buf, 0xa1, value.as_bytes());
}

/// Appends a symbol.
pub fn put_symbol(buf: &mut Vec<u8>, value: &str) {
    sized(buf, 0xa3, value.as_bytes());
}

fn wide4(buf: &mut Vec<u8>, code: u8, [a, b, c, d]: [u8; 4]) {
    buf.extend_from_slice(&[code, a, b, c, d]);
}

fn wide8(buf: &mut Vec<u8>, code: u8, [a, b, c, d, e, f, g, h]: [u8; 8]) {
    buf.extend_from_slice(&[code, a, b, c, d, e, f, g, h]);
}

/// `code` for lengths up to 255, `code + 0x10` above.
fn sized(buf: &mut Vec<u8>, code: u8, value: &[u8]) {
    if value.len() <= 255 {
        buf.extend_from_slice(&[code, value.len() as u8]);
    } else {
        wide4(buf, code + 0x10, (value.len() as u32).to_be_bytes());
    }
    buf.extend_from_slice(value);
}

/// Appends the descriptor `00 53 code`, at the offset where Python's client expects it (Spec amqp §2).
pub(crate) fn descriptor(buf: &mut Vec<u8>, code: u8) {
    buf.extend_from_slice(&[0x00, 0x53, code]);
}

/// Appends a list of `count` fields that `fields` writes: list8 when it fits, else list32.
pub(crate) fn list(buf: &mut Vec<u8>, count: u8, fields: impl FnOnce(&mut Vec<u8>)) {
    let start = buf.len();
    buf.extend_from_slice(&[0xc0, 0, count]);
    fields(buf);
    let body = buf.len() - start - 3;
    if body < 255 {
        buf[start + 1] = (body + 1) as u8;
    } else {
        let size = (body as u32 + 4).to_be_bytes();
        buf.splice(
            start..start + 3,
            [0xd0, size[0], size[1], size[2], size[3], 0, 0, 0, count],
        );
    }
}

/// Appends a list described by `code`: a performative, outcome, terminus or section.
pub fn put_described_list(buf: &mut Vec<u8>, code: u8, count: u8, fields: impl FnOnce(&mut Vec<u8>)) {
    descriptor(buf, code);
    list(buf, count, fields);
}

/// Appends an array of symbols; an empty one is written as null.
pub fn array_of_symbols<'a>(buf: &mut Vec<u8>, items: impl IntoIterator<Item = &'a str>) {
    array(buf, 0xb3, items);
}

/// Appends an array of strings; an empty one is written as null.
pub fn array_of_strings<'a>(buf: &mut Vec<u8>, items: impl IntoIterator<Item = &'a str>) {
    array(buf, 0xb1, items);
}

/// `wide` is the constructor with four bytes of length; the narrow one is used when all items allow it.
fn array<'a>(buf: &mut Vec<u8>, wide: u8, items: impl IntoIterator<Item = &'a str>) {
    let items: Vec<&str> = items.into_iter().collect();
    if items.is_empty() {
        return put_null(buf);
    }
    let narrow = items.iter().all(|item| item.len() <= 255);
    let body: usize = items
        .iter()
        .map(|item| item.len() + if narrow { 1 } else { 4 })
        .sum::<usize>()
        + 1;
    if narrow && body < 255 && items.len() <= 255 {
        buf.extend_from_slice(&[0xe0, (body + 1) as u8, items.len() as u8]);
    } else {
        wide4(buf, 0xf0, (body as u32 + 4).to_be_bytes());
        buf.extend_from_slice(&(items.len() as u32).to_be_bytes());
    }
    buf.push(if narrow { wide - 0x10 } else { wide });
    for item in items {
        if narrow {
            buf.push(item.len() as u8);
        } else {
            buf.extend_from_slice(&(item.len() as u32).to_be_bytes());
        }
        buf.extend_from_slice(item.as_bytes());
    }
}

/// A map32 under construction: size and count are patched by [`MapWriter::finish`].
#[derive(Debug)]
#[must_use = "an unfinished map has no size"]
pub struct MapWriter<'b> {
    /// Where keys and values are appended, in turn; [`MapWriter::key`] counts.
    pub buf: &'b mut Vec<u8>,
    start: usize,
    pairs: u32,
}

impl<'b> MapWriter<'b> {
    /// Appends the header of a map.
    pub fn begin(buf: &'b mut Vec<u8>) -> Self {
        let start = buf.len();
        buf.extend_from_slice(&[0xd1, 0, 0, 0, 0, 0, 0, 0, 0]);
        Self { buf, start, pairs: 0 }
    }

    /// Appends a symbol as key; the caller appends the value to the returned buffer.
    pub fn key(&mut self, symbol: &str) -> &mut Vec<u8> {
        self.pairs += 1;
        put_symbol(self.buf, symbol);
        self.buf
    }

    /// Appends a string as key; the caller appends the value to the returned buffer.
    pub fn string_key(&mut self, text: &str) -> &mut Vec<u8> {
        self.pairs += 1;
        put_str(self.buf, text);
        self.buf
    }

    /// Counts `pairs` entries that the caller has appended to [`MapWriter::buf`] as encoded bytes.
    pub fn add_encoded(&mut self, pairs: u32, bytes: &[u8]) {
        self.pairs += pairs;
        self.buf.extend_from_slice(bytes);
    }

    /// Patches size and count.
    pub fn finish(self) {
        let size = (self.buf.len() - self.start - 5) as u32;
        self.buf[self.start + 1..self.start + 5].copy_from_slice(&size.to_be_bytes());
        self.buf[self.start + 5..self.start + 9].copy_from_slice(&(self.pairs * 2).to_be_bytes());
    }
}
