//! JPEG and PNG files to upright RGB, as Pillow's `exif_transpose` and `convert("RGB")` give it.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use libjpeg_turbo_rs::{ColorSpace, DecodeLimits, Decoder, PixelFormat};
use png::{BitDepth, ColorType, Transformations};

use super::{Image, orientation};
use crate::error::{Error, ErrorKind, Result};

const PNG_MAGIC: &[u8] = b"\x89PNG\r\n\x1a\n";
const JPEG_MAGIC: &[u8] = b"\xff\xd8\xff";

/// A kind of image file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// ITU T.81.
    Jpeg,
    /// ISO/IEC 15948.
    Png,
}

impl FileKind {
    /// By a file's first bytes; none of both is `None`.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            _ if bytes.starts_with(JPEG_MAGIC) => Some(Self::Jpeg),
            _ if bytes.starts_with(PNG_MAGIC) => Some(Self::Png),
            _ => None,
        }
    }
}

/// What [`decode`] accepts. All of it is checked on the header, before pixels are allocated.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most columns, and most rows.
    pub max_side: usize,
    /// Most pixels.
    pub max_pixels: usize,
    /// Most bytes a decoder may hold, estimated.
    pub max_alloc_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_side: 16_384, max_pixels: 100_000_000, max_alloc_bytes: 1 << 30 }
    }
}

impl Limits {
    fn check(&self, width: usize, height: usize) -> Result<()> {
        if width == 0 || height == 0 {
            return Err(Error::format(format!("the image is {width}x{height}: it has no pixels")));
        }
        if width.max(height) > self.max_side || width * height > self.max_pixels {
            return Err(Error::format(format!(
                "the image is {width}x{height}, over the limit of {} pixels per side or {} in all",
                self.max_side, self.max_pixels
            )));
        }
        Ok(())
    }
}

/// Decodes a JPEG or PNG file, told apart by its first bytes, to upright 8-bit RGB.
///
/// Colours are taken as Pillow's `convert("RGB")` takes them: alpha is dropped, CMYK is taken as
/// Adobe's inverted CMYK, 16-bit colour keeps the high byte, but 16-bit gray is clipped to 255.
/// Colour profiles are ignored. EXIF orientation is applied.
///
/// # Errors
/// Neither JPEG nor PNG, over `limits`, truncated or damaged.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Image> {
    with_decoder(bytes, |kind| match kind {
        FileKind::Jpeg => jpeg(bytes, limits),
        FileKind::Png => png(bytes, limits),
    })
}

/// Width and height as a JPEG or PNG file stores them, before EXIF orientation. Reads headers only.
///
/// # Errors
/// Neither JPEG nor PNG, or damaged before the size is known.
pub fn stored_size(bytes: &[u8]) -> Result<[usize; 2]> {
    with_decoder(bytes, |kind| match kind {
        FileKind::Jpeg => {
            let any_size = DecodeLimits { max_pixels: u64::MAX, ..Default::default() };
            let decoder = Decoder::new_with_limits(bytes, any_size).map_err(damaged)?;
            Ok([decoder.header().width(), decoder.header().height()])
        }
        FileKind::Png => {
            let mut decoder = png::Decoder::new(Cursor::new(bytes));
            let header = decoder.read_header_info().map_err(damaged)?;
            Ok([header.width as usize, header.height as usize])
        }
    })
}

fn with_decoder<T>(bytes: &[u8], read: impl FnOnce(FileKind) -> Result<T>) -> Result<T> {
    let kind = FileKind::of(bytes).ok_or_else(|| Error::format("neither a JPEG nor a PNG file"))?;
    // Decoders are large and their input is hostile. They keep no state across calls, so a panic
    // leaves nothing half done.
    catch_unwind(AssertUnwindSafe(|| read(kind)))
        .unwrap_or_else(|_| Err(Error::format("damaged image: the decoder gave up")))
}

fn damaged(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::format(format!("damaged image: {error}")).caused_by(error)
}

fn jpeg(bytes: &[u8], limits: &Limits) -> Result<Image> {
    let decode_limits = DecodeLimits {
        max_width: limits.max_side,
        max_height: limits.max_side,
        max_pixels: limits.max_pixels as u64,
        // Each scan of a progressive file walks all pixels; real files have about ten.
        max_scans: 256,
        max_memory: Some(limits.max_alloc_bytes as u64),
    };
    let mut decoder = Decoder::new_with_limits(bytes, decode_limits).map_err(damaged)?;
    let (width, height) = (decoder.header().width(), decoder.header().height());
    limits.check(width, height)?;
    let orientation = decoder.exif_data().map_or(1, orientation::from_exif);

    let cmyk = matches!(decoder.jpeg_color_space(), ColorSpace::Cmyk | ColorSpace::Ycck);
    let gray = decoder.jpeg_color_space() == ColorSpace::Grayscale;
    decoder.set_output_format(match (cmyk, gray) {
        (true, _) => PixelFormat::Cmyk,
        (_, true) => PixelFormat::Grayscale,
        _ => PixelFormat::Rgb,
    });
    let raw = decoder.decode_image().map_err(damaged)?.data;
    let rgb = match (cmyk, gray) {
        (true, _) => map_pixels::<4>(&raw, inverted_cmyk_to_rgb),
        (_, true) => map_pixels::<1>(&raw, |[y]| [y; 3]),
        _ => raw,
    };
    Ok(orientation::apply(Image::new(width, height, 3, rgb), orientation))
}

/// Adobe's CMYK: 0 is full ink.
fn inverted_cmyk_to_rgb([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let k = u32::from(k);
    [c, m, y].map(|ink| {
        // Pillow's arithmetic: multiply the ink, not the light, and round to nearest.
        let product = (255 - u32::from(ink)) * k + 128;
        (k - ((product + (product >> 8)) >> 8)) as u8
    })
}

fn png(bytes: &[u8], limits: &Limits) -> Result<Image> {
    let decoder_limits = png::Limits { bytes: limits.max_alloc_bytes };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), decoder_limits);
    let header = decoder.read_header_info().map_err(damaged)?;
    let (width, height) = (header.width as usize, header.height as usize);
    limits.check(width, height)?;
    let gray16 = header.color_type == ColorType::Grayscale && header.bit_depth == BitDepth::Sixteen;

    // Palettes to RGB, packed gray to bytes, keyed transparency to alpha.
    decoder.set_transformations(Transformations::EXPAND);
    let mut reader = decoder.read_info().map_err(damaged)?;
    let size = reader.output_buffer_size().filter(|s| *s <= limits.max_alloc_bytes);
    let size = size.ok_or_else(|| Error::format("the image's pixels are over the memory limit"))?;
    let mut raw = vec![0; size];
    let frame = reader.next_frame(&mut raw).map_err(damaged)?;
    raw.truncate(frame.buffer_size());

    let high = |[high, _]: [u8; 2]| high;
    let clipped = |[high, low]: [u8; 2]| if high == 0 { low } else { 255 };
    let rgb = match (frame.color_type, frame.bit_depth) {
        (ColorType::Rgb, BitDepth::Eight) => raw,
        (ColorType::Rgba, BitDepth::Eight) => map_pixels::<4>(&raw, |[r, g, b, _]| [r, g, b]),
        (ColorType::Grayscale, BitDepth::Eight) => map_pixels::<1>(&raw, |[y]| [y; 3]),
        (ColorType::GrayscaleAlpha, BitDepth::Eight) => map_pixels::<2>(&raw, |[y, _]| [y; 3]),
        (ColorType::Rgb, BitDepth::Sixteen) => {
            map_pixels::<6>(&raw, |[r, _, g, _, b, _]| [r, g, b])
        }
        (ColorType::Rgba, BitDepth::Sixteen) => {
            map_pixels::<8>(&raw, |[r, _, g, _, b, _, _, _]| [r, g, b])
        }
        (ColorType::Grayscale, BitDepth::Sixteen) => map_pixels::<2>(&raw, |y| [clipped(y); 3]),
        (ColorType::GrayscaleAlpha, BitDepth::Sixteen) => map_pixels::<4>(&raw, |[y, z, _, _]| {
            [if gray16 { clipped([y, z]) } else { high([y, z]) }; 3]
        }),
        (color, depth) => {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("the PNG decoder left {color:?} of {depth:?} bits unexpanded"),
            ));
        }
    };
    let orientation = reader.info().exif_metadata.as_deref().map_or(1, orientation::from_exif);
    Ok(orientation::apply(Image::new(width, height, 3, rgb), orientation))
}

fn map_pixels<const N: usize>(raw: &[u8], to_rgb: impl Fn([u8; N]) -> [u8; 3]) -> Vec<u8> {
    let (pixels, _) = raw.as_chunks::<N>();
    pixels.iter().flat_map(|p| to_rgb(*p)).collect()
}
