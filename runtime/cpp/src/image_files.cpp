// JPEG by libjpeg-turbo and PNG by libpng, both to 8 bits a channel.

#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>
// jpeglib.h needs stdio.h before it
#include <jerror.h>
#include <jpeglib.h>
#include <png.h>

#include "images.hpp"
#include "resnet_runtime/error.hpp"

namespace resnet {

namespace {

constexpr std::uint64_t most_pixels = 2 * std::uint64_t{178956970};  // as Pillow

bool is_large(std::uint64_t width, std::uint64_t height) { return width * height > most_pixels; }

void refuse_large(std::uint64_t width, std::uint64_t height, const std::string& name) {
  if (is_large(width, height)) {
    throw Error(ErrorKind::image, name + " has " + std::to_string(height) + " x " + std::to_string(width) +
                                      " pixels (height x width), more than " + std::to_string(most_pixels));
  }
}

Error unreadable(const std::string& name, const std::string& why) {
  return {ErrorKind::image, name + " cannot be read as an image: " + why};
}

/// The orientation in a TIFF structure, as EXIF has it; 1 where there is none.
int orientation_from_tiff(const unsigned char* data, std::size_t size) {
  if (size < 8) return 1;
  const bool little = data[0] == 'I' && data[1] == 'I';
  if (!little && !(data[0] == 'M' && data[1] == 'M')) return 1;
  const auto number = [&](std::size_t at, std::size_t bytes) -> std::uint32_t {
    if (at > size || bytes > size - at) return 0;
    std::uint32_t value = 0;
    for (std::size_t index = 0; index < bytes; ++index) {
      value = value << 8U | data[at + (little ? bytes - 1 - index : index)];
    }
    return value;
  };
  if (number(2, 2) != 42) return 1;
  const std::size_t directory = number(4, 4);
  const std::uint32_t entries = number(directory, 2);
  for (std::uint32_t index = 0; index < entries; ++index) {
    const std::size_t entry = directory + 2 + std::size_t{12} * index;
    if (number(entry, 2) != 0x0112) continue;
    const std::uint32_t kind = number(entry + 2, 2);
    const std::uint32_t value = kind == 4 ? number(entry + 8, 4) : number(entry + 8, 2);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

struct JpegTrouble {
  jpeg_error_mgr manager;  // the first member: libjpeg knows of nothing else
  std::jmp_buf where;
  char message[JMSG_LENGTH_MAX];
  bool warned;
};

void jpeg_failed(j_common_ptr about) {
  auto* trouble = reinterpret_cast<JpegTrouble*>(about->err);
  about->err->format_message(about, trouble->message);
  std::longjmp(trouble->where, 1);
}

/// Of the warnings one is none: the file is cut off, and libjpeg would fill the rest with gray.
void jpeg_warned(j_common_ptr about, int level) {
  if (level >= 0 || about->err->msg_code != JWRN_JPEG_EOF) return;
  auto* trouble = reinterpret_cast<JpegTrouble*>(about->err);
  if (!trouble->warned) about->err->format_message(about, trouble->message);
  trouble->warned = true;
}

/// What one decompression needs, freed whatever happens; nothing of it lies on a stack that longjmp leaves.
struct Jpeg {
  jpeg_decompress_struct state{};
  JpegTrouble trouble{};
  Decoded decoded;
  bool is_other = false;  ///< of a color space that is not read

  ~Jpeg() { jpeg_destroy_decompress(&state); }
};

/// False where libjpeg failed. In a function of its own: longjmp returns into it and passes no destructor.
bool decompress(Jpeg& jpeg, const std::string& data) {
  jpeg_decompress_struct& state = jpeg.state;
  state.err = jpeg_std_error(&jpeg.trouble.manager);
  jpeg.trouble.manager.error_exit = jpeg_failed;
  jpeg.trouble.manager.emit_message = jpeg_warned;
  if (setjmp(jpeg.trouble.where) != 0) return false;
  jpeg_create_decompress(&state);
  jpeg_mem_src(&state, reinterpret_cast<const unsigned char*>(data.data()), static_cast<unsigned long>(data.size()));
  jpeg_save_markers(&state, JPEG_APP0 + 1, 0xFFFF);
  jpeg_read_header(&state, TRUE);
  if (is_large(state.image_width, state.image_height)) return true;
  const bool gray = state.jpeg_color_space == JCS_GRAYSCALE;
  jpeg.is_other = state.jpeg_color_space == JCS_CMYK || state.jpeg_color_space == JCS_YCCK;
  if (jpeg.is_other) return true;
  state.out_color_space = gray ? JCS_GRAYSCALE : JCS_RGB;
  for (jpeg_saved_marker_ptr marker = state.marker_list; marker != nullptr; marker = marker->next) {
    if (marker->data_length > 6 && std::memcmp(marker->data, "Exif\0\0", 6) == 0) {
      jpeg.decoded.orientation = orientation_from_tiff(marker->data + 6, marker->data_length - 6);
      break;
    }
  }
  jpeg_start_decompress(&state);
  Pixels& pixels = jpeg.decoded.pixels;
  pixels.height = state.output_height;
  pixels.width = state.output_width;
  pixels.channels = state.output_components;
  pixels.values.resize(static_cast<std::size_t>(pixels.height * pixels.width * pixels.channels));
  while (state.output_scanline < state.output_height) {
    JSAMPROW row = pixels.row(state.output_scanline);
    jpeg_read_scanlines(&state, &row, 1);
  }
  jpeg_finish_decompress(&state);
  return true;
}

Decoded jpeg_from_bytes(const std::string& data, const std::string& name) {
  const auto jpeg = std::make_unique<Jpeg>();
  if (!decompress(*jpeg, data) || jpeg->trouble.warned) throw unreadable(name, jpeg->trouble.message);
  if (jpeg->is_other) throw unreadable(name, "it is a CMYK JPEG: save it as RGB");
  refuse_large(jpeg->state.image_width, jpeg->state.image_height, name);
  return std::move(jpeg->decoded);
}

struct Png {
  png_structp png = nullptr;
  png_infop info = nullptr;
  const std::string* data = nullptr;
  std::size_t at = 0;
  std::string message;
  Decoded decoded;
  std::vector<png_bytep> rows;

  ~Png() { png_destroy_read_struct(&png, &info, nullptr); }
};

void png_failed(png_structp png, png_const_charp text) {
  static_cast<Png*>(png_get_error_ptr(png))->message = text;
  png_longjmp(png, 1);
}

void png_warned(png_structp, png_const_charp) {}

void png_more(png_structp png, png_bytep to, png_size_t count) {
  auto* reader = static_cast<Png*>(png_get_io_ptr(png));
  if (count > reader->data->size() - reader->at) png_error(png, "the file is cut off");
  std::memcpy(to, reader->data->data() + reader->at, count);
  reader->at += count;
}

bool decompress(Png& reader) {
  png_structp png = reader.png;
  png_infop info = reader.info;
  if (setjmp(png_jmpbuf(png)) != 0) return false;
  png_set_read_fn(png, &reader, png_more);
  png_set_user_limits(png, 1U << 30U, 1U << 30U);
  png_read_info(png, info);
  if (is_large(png_get_image_width(png, info), png_get_image_height(png, info))) return true;
  png_set_strip_16(png);  // the high byte, as Python's runtime takes it
  png_set_palette_to_rgb(png);
  png_set_expand_gray_1_2_4_to_8(png);
  if (png_get_valid(png, info, PNG_INFO_tRNS) != 0) png_set_tRNS_to_alpha(png);
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
  Pixels& pixels = reader.decoded.pixels;
  pixels.height = png_get_image_height(png, info);
  pixels.width = png_get_image_width(png, info);
  pixels.channels = png_get_channels(png, info);
  pixels.values.resize(static_cast<std::size_t>(pixels.height * pixels.width * pixels.channels));
  reader.rows.resize(static_cast<std::size_t>(pixels.height));
  for (std::int64_t y = 0; y < pixels.height; ++y) reader.rows[static_cast<std::size_t>(y)] = pixels.row(y);
  png_read_image(png, reader.rows.data());
  png_read_end(png, info);
#ifdef PNG_eXIf_SUPPORTED
  png_uint_32 size = 0;
  png_bytep exif = nullptr;
  if (png_get_eXIf_1(png, info, &size, &exif) != 0) reader.decoded.orientation = orientation_from_tiff(exif, size);
#endif
  return true;
}

Decoded png_from_bytes(const std::string& data, const std::string& name) {
  const auto reader = std::make_unique<Png>();
  reader->data = &data;
  reader->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, reader.get(), png_failed, png_warned);
  if (reader->png == nullptr) throw std::bad_alloc();
  reader->info = png_create_info_struct(reader->png);
  if (reader->info == nullptr) throw std::bad_alloc();
  if (!decompress(*reader)) throw unreadable(name, reader->message);
  refuse_large(png_get_image_width(reader->png, reader->info), png_get_image_height(reader->png, reader->info), name);
  return std::move(reader->decoded);
}

}  // namespace

Decoded decoded_from_bytes(const std::string& data, const std::string& name) {
  if (data.empty()) throw Error(ErrorKind::image, name + " is empty");
  if (data.compare(0, 3, "\xFF\xD8\xFF") == 0) return jpeg_from_bytes(data, name);
  if (data.compare(0, 8, "\x89PNG\r\n\x1A\n") == 0) return png_from_bytes(data, name);
  throw Error(ErrorKind::image, name + " is not an image, or a damaged one: it begins like neither JPEG nor PNG");
}

}  // namespace resnet
