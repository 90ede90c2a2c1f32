//! A verification's QR code on the terminal, as block characters.

use qrcode::{Color, EcLevel, QrCode, Version, bits::Bits};

use crate::failure::Failure;

/// Modules of quiet around the code, as the standard wants.
const QUIET: usize = 4;

/// The code as lines of text, two rows of modules each. Bright is a full block: terminals are dark.
pub fn draw(bytes: &[u8]) -> Result<String, Failure> {
    let code = encode(bytes).ok_or_else(|| Failure::other("the QR code is too large"))?;
    let width = code.width();
    let is_bright = |x: usize, y: usize| {
        let inside = |at: usize| at.checked_sub(QUIET).filter(|at| *at < width);
        inside(x).zip(inside(y)).is_none_or(|at| code[at] == Color::Light)
    };
    let side = width + 2 * QUIET;
    let row = |y: usize| -> String {
        let block = |x| match (is_bright(x, y), is_bright(x, y + 1)) {
            (true, true) => '█',
            (true, false) => '▀',
            (false, true) => '▄',
            (false, false) => ' ',
        };
        (0..side).map(block).collect()
    };
    Ok((0..side).step_by(2).map(row).collect::<Vec<_>>().join("\n"))
}

/// The smallest code that holds the bytes, all in binary mode: other clients read no other.
fn encode(bytes: &[u8]) -> Option<QrCode> {
    const LEVEL: EcLevel = EcLevel::L;
    (1..=40).find_map(|version| {
        let mut bits = Bits::new(Version::Normal(version));
        bits.push_byte_data(bytes).ok()?;
        bits.push_terminator(LEVEL).ok()?;
        QrCode::with_bits(bits, LEVEL).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_square_with_quiet_around_it() {
        let text = draw(b"MATRIX\x02\x00\x00\x06").unwrap();
        let lines: Vec<Vec<char>> = text.lines().map(|line| line.chars().collect()).collect();
        // The smallest code has 21 modules to a side.
        assert_eq!(lines[0].len(), 21 + 2 * QUIET);
        assert_eq!(lines.len(), (21 + 2 * QUIET).div_ceil(2));
        assert!(lines.iter().all(|line| line.len() == lines[0].len()));
        assert!(lines[0].iter().all(|c| *c == '█'));
        assert!(lines.iter().all(|line| line[0] == '█' && line[line.len() - 1] == '█'));
        // The upper left finder: seven dark modules over one dark and five bright.
        assert_eq!(lines[2][QUIET..QUIET + 7], [' ', '▄', '▄', '▄', '▄', '▄', ' ']);
    }

    #[test]
    fn digits_are_bytes_too() {
        // In numeric mode these would fit the smallest code.
        assert_eq!(encode(&[b'0'; 41]).unwrap().width(), 29);
    }

    #[test]
    fn what_fits_no_code_is_an_error() {
        assert!(draw(&[0; 3000]).is_err());
        assert!(draw(&[0xff; 200]).is_ok());
    }
}
