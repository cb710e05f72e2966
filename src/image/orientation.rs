//! EXIF orientation: which edge of the stored image is up.

use super::Image;

/// The orientation tag (1 to 8) of an EXIF block; 1, upright, if there is none.
pub(super) fn from_exif(exif: &[u8]) -> u32 {
    let parsed = exif::Reader::new().read_raw(exif.to_vec()).ok();
    parsed
        .as_ref()
        .and_then(|exif| exif.get_field(exif::Tag::Orientation, exif::In::PRIMARY))
        .and_then(|field| field.value.get_uint(0))
        .unwrap_or(1)
}

/// Turns the stored image upright.
pub(super) fn apply(image: Image, orientation: u32) -> Image {
    let (w, h) = (image.width as isize, image.height as isize);
    // Where the upright image's top left pixel is stored, and the way from a pixel to the one on
    // its right and to the one below.
    let (first, right, down) = match orientation {
        2 => (w - 1, -1, w),
        3 => (w * h - 1, -1, -w),
        4 => (w * (h - 1), 1, -w),
        5 => (0, w, 1),
        6 => (w * (h - 1), -w, 1),
        7 => (w * h - 1, -w, -1),
        8 => (w - 1, w, -1),
        _ => return image,
    };
    let on_its_side = orientation >= 5;
    let (width, height) = if on_its_side { (h, w) } else { (w, h) };
    let mut data = Vec::with_capacity(image.data.len());
    for y in 0..height {
        for x in 0..width {
            let start = (first + x * right + y * down) as usize * image.channels;
            data.extend_from_slice(&image.data[start..start + image.channels]);
        }
    }
    Image::new(width as usize, height as usize, image.channels, data)
}
