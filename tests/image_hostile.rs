//! Damaged and oversized image files are errors: no panic, no large allocation.
#![cfg(feature = "image")]

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::metered::{Counting, within};
use skipstone::image::{Image, Limits, decode, stored_size};
use skipstone::{ErrorKind, Recipe};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn files() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "jpg" || e == "png"));
    paths.sort();
    paths.iter().map(|p| (p.display().to_string(), fs::read(p).unwrap())).collect()
}

#[test]
fn truncated_files_are_errors() {
    for (name, bytes) in files() {
        // The last bytes are an end marker (of JPEG) or chunk (of PNG) that nothing depends on.
        for len in (0..bytes.len() - 12).step_by(1 + bytes.len() / 97) {
            assert!(decode(&bytes[..len], &Limits::default()).is_err(), "{name} cut to {len}");
        }
    }
}

#[test]
fn flipped_bytes_never_panic() {
    for (name, bytes) in files() {
        let good = decode(&bytes, &Limits::default()).unwrap();
        for at in 0..bytes.len().min(700) {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << (at % 8) | 0x40;
            match decode(&bytes, &Limits::default()) {
                Ok(image) => assert!(image.data().len() < 1 << 28, "{name} flipped at {at}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Format, "{name} at {at}"),
            }
        }
        assert_eq!(decode(&bytes, &Limits::default()).unwrap(), good);
    }
}

/// Headers alone, claiming more pixels than anyone has memory for.
#[test]
fn bombs_are_refused_at_the_header() {
    let png = |width: u32, height: u32| {
        let mut header = b"IHDR".to_vec();
        header.extend(width.to_be_bytes());
        header.extend(height.to_be_bytes());
        header.extend([8, 2, 0, 0, 0]);
        let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
        file.extend(&header);
        file.extend(crc32(&header).to_be_bytes());
        file.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e");
        file
    };
    let jpeg = |width: u16, height: u16| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images");
        let mut file = fs::read(folder.join("progressive.jpg")).unwrap();
        let frame = file.windows(2).position(|w| w == [0xff, 0xc2]).unwrap();
        file[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
        file[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
        file
    };
    for (bomb, size) in [
        (png(60_000, 60_000), [60_000, 60_000]),
        (png(16_384, 16_384), [16_384, 16_384]),
        (png(u32::MAX >> 1, 1), [u32::MAX as usize >> 1, 1]),
        (jpeg(60_000, 60_000), [60_000, 60_000]),
        (jpeg(16_385, 1), [16_385, 1]),
        (jpeg(12_000, 12_000), [12_000, 12_000]),
    ] {
        assert_eq!(stored_size(&bomb).unwrap(), size);
        let refused = || decode(&bomb, &Limits::default()).unwrap_err();
        let error = within(1 << 20, Duration::from_millis(50), refused);
        assert_eq!(error.kind(), ErrorKind::Format);
        assert!(error.to_string().contains("limit"), "{error}");
    }
}

/// A JPEG may leave its number of lines to a later marker.
#[test]
fn images_without_pixels_are_refused() {
    let file = include_bytes!("images/hostile/no-lines.jpg");
    let error = decode(file, &Limits::default()).unwrap_err();
    assert_eq!(error.to_string(), "the image is 13133x0: it has no pixels");
    for [width, height] in [[0, 7], [7, 0], [0, 0]] {
        let error = Recipe::imagenet().prepare(&Image::new(width, height, 3, vec![])).unwrap_err();
        assert_eq!(error.to_string(), format!("the image is {width}x{height}: it has no pixels"));
    }
}

#[test]
fn other_files_are_named() {
    for bytes in [&b""[..], b"GIF89a", b"\xff\xd8", b"RIFF....WEBP"] {
        let error = decode(bytes, &Limits::default()).unwrap_err();
        assert_eq!(error.to_string(), "neither a JPEG nor a PNG file");
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}
