//! What registers say, for every encoding, order and selection, and the way back of a control.

use arbitrary::{Arbitrary, Unstructured};
use rust_decimal::Decimal;
use solarnode_agent::{
    config::settings::{Encoding, Order, Property, Register, Scale, Select, Table},
    domain::Kind,
    modbus::{decode, encode, frame::Data},
};

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    table: u8,
    encoding: u8,
    length: u8,
    little: (bool, bool),
    select: Option<Result<u8, u64>>,
    address: u16,
    first: u16,
    kind: u8,
    scale: Option<(i64, u8, i64, u8, Option<u8>)>,
    invalid: Option<i64>,
    bytes: &'a [u8],
}

impl Input<'_> {
    fn register(&self) -> Register {
        use Encoding as E;
        let words = u16::from(self.length % 125) + 1;
        let encodings = [
            E::Bit,
            E::I16,
            E::U16,
            E::I32,
            E::U32,
            E::I64,
            E::U64,
            E::F16,
            E::F32,
            E::F64,
            E::Bytes(words),
            E::Utf8(words),
            E::Ascii(words),
        ];
        let tables = [Table::Coil, Table::Discrete, Table::Input, Table::Holding, Table::Holding];
        let order = |little| if little { Order::Little } else { Order::Big };
        let encoding = encodings[usize::from(self.encoding) % encodings.len()];
        // The configuration takes a selection of unsigned integers alone, within their bits.
        let bits = u32::from(encoding.words()) * 16;
        let select = match (encoding, self.select) {
            (E::U16 | E::U32 | E::U64, Some(Ok(bit))) => Select::Bit(bit % (bits as u8)),
            (E::U16 | E::U32 | E::U64, Some(Err(mask)))
                if mask.checked_shl(64 - bits) > Some(0) =>
            {
                Select::Mask(mask & (u64::MAX >> (64 - bits)))
            }
            _ => Select::All,
        };
        Register {
            table: tables[usize::from(self.table) % tables.len()],
            address: self.address,
            encoding,
            word_order: order(self.little.0),
            byte_order: order(self.little.1),
            select,
        }
    }

    fn scale(&self) -> Scale {
        let decimal = |number: i64, scale: u8| Decimal::new(number, u32::from(scale) % 19);
        let plain = Scale { multiply: Decimal::ONE, offset: Decimal::ZERO, digits: None };
        // The configuration takes no factor of zero.
        self.scale.filter(|scale| scale.0 != 0).map_or(plain, |(multiply, a, offset, b, digits)| {
            Scale {
                multiply: decimal(multiply, a),
                offset: decimal(offset, b),
                digits: digits.map(|digits| u32::from(digits) % 19),
            }
        })
    }
}

pub(crate) fn check(bytes: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(bytes)) else { return };
    let (register, scale) = (input.register(), input.scale());
    let kinds = [Kind::Instantaneous, Kind::Accumulating, Kind::Status];
    let property = Property {
        name: "p".to_owned(),
        kind: kinds[usize::from(input.kind) % kinds.len()],
        register,
        scale,
        invalid: input.invalid.into_iter().map(Decimal::from).collect(),
        tags: Vec::new(),
    };
    let data = match register.table {
        Table::Coil | Table::Discrete => Data::Bits(input.bytes),
        Table::Input | Table::Holding => Data::Words(input.bytes),
    };
    let said = decode::value(&property, input.first, data);
    if let Ok(decode::Value::Text(text)) = &said {
        assert!(property.kind == Kind::Status && !text.contains('\0'));
    }

    // What a control shows can be written, and what would be written shows the same.
    let Ok(shown) = decode::control(&register, &scale, input.first, data) else { return };
    let exact = Scale { digits: None, ..scale };
    let Ok(write) = encode::write(&register, &exact, shown) else { return };
    let mut pdu = Vec::new();
    write.request().encode(&mut pdu).ok();
    let bytes: Vec<u8> = match &write {
        encode::Write::Coil { on, .. } => vec![u8::from(*on)],
        encode::Write::Registers { words, .. } => {
            words.iter().flat_map(|word| word.to_be_bytes()).collect()
        }
    };
    let data = match register.table {
        Table::Coil | Table::Discrete => Data::Bits(&bytes),
        Table::Input | Table::Holding => Data::Words(&bytes),
    };
    let again = decode::control(&register, &exact, register.address, data);
    assert_eq!(again.as_ref(), Ok(&shown), "{write:?}");
}
