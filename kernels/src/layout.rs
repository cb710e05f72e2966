//! Block sizes and weight layouts: the words that packers, micro-kernels and the packed file share.

/// Inner channel block of activations in `nChw8c`.
pub const C_BLOCK: usize = 8;
/// Inner channel block of u8 activations in `nChw16c`.
pub const C_BLOCK_U8: usize = 16;
/// Output channels of a weight panel.
pub const OC_PANEL: usize = 16;

/// How a weight tensor lies in memory. The numbers are stored in packed files and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum LayoutTag {
    /// Row-major, as in the source: `OIHW` for convolutions, `[out, in]` for linear layers.
    RowMajor = 0,
    /// `OIhw8i16o`: panels of 16 output channels, and in each `[ic/8][kh][kw][8 ic][16 oc]`.
    /// For activations in `nChw8c`.
    OIhw8i16o = 1,
    /// `Ohwi16o`: panels of 16 output channels, and in each `[kh][kw][ic][16 oc]`.
    /// For images with interleaved channels (`NHWC`), whose row of a window is contiguous.
    Ohwi16o = 2,
}

impl LayoutTag {
    /// All layouts this version knows.
    pub const ALL: [Self; 3] = [Self::RowMajor, Self::OIhw8i16o, Self::Ohwi16o];

    /// The layout with this stored number.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|t| *t as u32 == code)
    }

    /// Name in dumps.
    pub fn name(self) -> &'static str {
        match self {
            Self::RowMajor => "row-major",
            Self::OIhw8i16o => "OIhw8i16o",
            Self::Ohwi16o => "Ohwi16o",
        }
    }
}
