/* skipstone: SIMD CPU inference for the ResNet family.
 *
 * Calls return a status: 0, or a SKIPSTONE_ERROR_ code whose text skipstone_last_error gives, per thread.
 * What a _create or _open gives, the matching _destroy takes. Models and runtimes may be used by any
 * number of threads, sessions too; options by one at a time. Every structure that a call reads or writes
 * begins with its size: set it. Strings are UTF-8.
 */

#ifndef SKIPSTONE_H
#define SKIPSTONE_H

/* Made by cbindgen from src/capi; change it there. */

#include <stddef.h>
#include <stdint.h>

// The version of the library.
#define SKIPSTONE_MAJOR 0
#define SKIPSTONE_MINOR 1
#define SKIPSTONE_PATCH 0

// Elements are 32-bit floats.
#define SKIPSTONE_F32 0

// Elements are bytes: pixels of the size and channel order that the model's recipe makes. Its scale,
// mean and standard deviation are applied as the network reads them.
#define SKIPSTONE_U8 1

// The axes are those of the network's input.
#define SKIPSTONE_NATIVE 0

// Channel by channel.
#define SKIPSTONE_NCHW 1

// Pixel by pixel.
#define SKIPSTONE_NHWC 2

// The version of this interface: major * 1000 + minor.
#define SKIPSTONE_API_VERSION 1000

// Copy the file into memory, and check all of it.
#define SKIPSTONE_OPEN_COPY 0

// Map the file: ready at once, and shared with other processes. Until the model and its sessions are
// destroyed, nobody may change or truncate the file; replacing it by a rename is fine.
#define SKIPSTONE_OPEN_MAP 1

// With SKIPSTONE_OPEN_MAP: check all of it.
#define SKIPSTONE_OPEN_VERIFY 2

// Success.
#define SKIPSTONE_OK 0

// An argument is outside what the call accepts: NULL, out of range, an unknown key.
#define SKIPSTONE_ERROR_INVALID_ARGUMENT -1

// A file does not exist or cannot be read.
#define SKIPSTONE_ERROR_IO -2

// Not a packed model, or not an image; or damaged.
#define SKIPSTONE_ERROR_FORMAT -3

// Stored bytes do not match their checksum.
#define SKIPSTONE_ERROR_CHECKSUM -4

// The network, or the request, needs something that is not supported.
#define SKIPSTONE_ERROR_UNSUPPORTED -5

// A tensor's size does not fit where it is used.
#define SKIPSTONE_ERROR_SHAPE -6

// There is not enough memory.
#define SKIPSTONE_ERROR_NO_MEMORY -7

// The deadline passed before the work began.
#define SKIPSTONE_ERROR_TIMEOUT -8

// The queue has no room: try again later.
#define SKIPSTONE_ERROR_QUEUE_FULL -9

// The session is closed, or the request was withdrawn.
#define SKIPSTONE_ERROR_CLOSED -10

// The file's version, the header's version, or a structure's size is one this library does not know.
#define SKIPSTONE_ERROR_VERSION -11

// The process was forked: open models and create sessions in the child.
#define SKIPSTONE_ERROR_FORKED -12

// An earlier call on this handle met a defect; only destroy it.
#define SKIPSTONE_ERROR_POISONED -13

// A defect of this library.
#define SKIPSTONE_ERROR_INTERNAL -14

// Results differ from the reference they are held against.
#define SKIPSTONE_ERROR_MISMATCH -15

// An opened model. Immutable; used by any number of threads. Sessions keep what they need of it.
typedef struct skipstone_model skipstone_model;

// Settings by name.
typedef struct skipstone_options skipstone_options;

// Threads that sessions share; they take turns. Without one, each session has its own.
typedef struct skipstone_runtime skipstone_runtime;

// A model that runs, with a queue. Used by any number of threads.
typedef struct skipstone_session skipstone_session;

// An input or output of a model or session.
typedef struct {
  // sizeof(skipstone_tensor_info).
  uint32_t struct_size;
  // Elements of dims that are used.
  uint32_t rank;
  // Extents in the network's own axes, -1 for the batch.
  int64_t dims[4];
  // SKIPSTONE_NCHW, SKIPSTONE_NHWC, or SKIPSTONE_NATIVE where it is neither.
  int32_t order;
  // 1 if it may be fed with bytes, else 0.
  int32_t takes_u8;
  // Channels of one image; 1 where it has no such axis, as in the next two.
  int64_t channels;
  // Rows.
  int64_t height;
  // Columns.
  int64_t width;
  // Its name; lives as long as the handle that was asked.
  const char *name;
} skipstone_tensor_info;

// One input of a run: one or more images, dense, by default in the network's own axes.
typedef struct {
  // sizeof(skipstone_input).
  uint32_t struct_size;
  // SKIPSTONE_F32 or SKIPSTONE_U8.
  int32_t dtype;
  // SKIPSTONE_NATIVE, SKIPSTONE_NCHW or SKIPSTONE_NHWC.
  int32_t order;
  // 0.
  int32_t reserved;
  // The elements; f32 are aligned to 4 bytes.
  const void *data;
  // Their size in bytes: tells how many images they are.
  size_t size;
} skipstone_input;

// One output of a run: f32, dense, in the network's own axes, as many images as the inputs have.
typedef struct {
  // sizeof(skipstone_output).
  uint32_t struct_size;
  // 0.
  int32_t reserved;
  // Where results go.
  float *data;
  // Its size in bytes.
  size_t size;
} skipstone_output;

// Where a request's time went.
typedef struct {
  // sizeof(skipstone_timing).
  uint32_t struct_size;
  // Images in the largest batch with an image of the request, other requests' included.
  uint32_t batch;
  // From the call to the first run with an image of the request.
  uint64_t queued_ns;
  // From then to the end of the last.
  uint64_t computed_ns;
} skipstone_timing;

// Called when a submitted request has ended, on a thread of the session that it must not block:
// `status` as of a call, with the text of an error kept for this thread, and where the time went
// (NULL after an error).
typedef void (*skipstone_done)(void *user, int32_t status, const skipstone_timing *timing);

// One class of an image.
typedef struct {
  // sizeof(skipstone_class).
  uint32_t struct_size;
  // Its number.
  uint32_t index;
  // Its probability.
  float score;
  // 0.
  int32_t reserved;
  // Its name, or NULL if the model has none; lives as long as the session.
  const char *label;
} skipstone_class;

// What a session has done since it was created.
typedef struct {
  // sizeof(skipstone_stats).
  uint32_t struct_size;
  // 0.
  uint32_t reserved;
  // Requests that were queued.
  uint64_t accepted;
  // Requests that were refused: the queue was full, or the session closed.
  uint64_t rejected;
  // Requests whose deadline passed in the queue.
  uint64_t expired;
  // Requests that were withdrawn.
  uint64_t cancelled;
  // Batches that ran.
  uint64_t executions;
  // Images in them.
  uint64_t images;
  // Batches that failed.
  uint64_t failed_executions;
  // Time spent in runs, all streams together.
  uint64_t computed_ns;
  // Images that wait now.
  uint64_t queued_images;
  // Images in batches that run now.
  uint64_t running_images;
} skipstone_stats;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of the library's interface: major * 1000 + minor.
uint32_t skipstone_api_version(void);

// The library's version, e.g. "0.1.0"; static.
const char *skipstone_version(void);

// Whether a program compiled with a header of `header_version` (SKIPSTONE_API_VERSION) can use this
// library: the same major version, and no newer. SKIPSTONE_ERROR_VERSION if it cannot.
int32_t skipstone_check_api(uint32_t header_version);

// Opens a packed model; `flags` are SKIPSTONE_OPEN_COPY, or SKIPSTONE_OPEN_MAP and perhaps
// SKIPSTONE_OPEN_VERIFY. `path` is UTF-8 on Windows, and any bytes elsewhere.
//
// # Safety
// Pointers are NULL or valid; the promise of SKIPSTONE_OPEN_MAP.
int32_t skipstone_model_open(const char *path, uint32_t flags, skipstone_model **out);

// Opens a packed model in memory; copies it.
//
// # Safety
// `data` is NULL or valid for reads of `size` bytes, `out` NULL or valid for writes.
int32_t skipstone_model_from_memory(const void *data, size_t size, skipstone_model **out);

// NULL is fine.
//
// # Safety
// `model` is NULL or a handle that is not used again.
void skipstone_model_destroy(skipstone_model *model);

// Numbers of inputs, outputs and labels; each of the three may be NULL.
//
// # Safety
// Pointers are NULL or valid.
int32_t skipstone_model_counts(const skipstone_model *model,
                               size_t *inputs,
                               size_t *outputs,
                               size_t *labels);

// An input, with its default size.
//
// # Safety
// Pointers are NULL or valid; `out->struct_size` says the size of `*out`.
int32_t skipstone_model_input(const skipstone_model *model,
                              size_t index,
                              skipstone_tensor_info *out);

// An output, for inputs of the default size.
//
// # Safety
// As `skipstone_model_input`.
int32_t skipstone_model_output(const skipstone_model *model,
                               size_t index,
                               skipstone_tensor_info *out);

// The name of a class; it lives as long as the model.
//
// # Safety
// Pointers are NULL or valid.
int32_t skipstone_model_label(const skipstone_model *model, size_t index, const char **out);

// How photographs are prepared, as JSON; it lives as long as the model.
// SKIPSTONE_ERROR_UNSUPPORTED if the model does not say.
//
// # Safety
// Pointers are NULL or valid.
int32_t skipstone_model_recipe(const skipstone_model *model, const char **out);

// What the file says of itself (source, licence, ...), as a JSON object of strings; it lives as long
// as the model.
//
// # Safety
// Pointers are NULL or valid.
int32_t skipstone_model_metadata(const skipstone_model *model,
                                 const char **out);

// BLAKE3 of the file's content.
//
// # Safety
// Pointers are NULL or valid; `out` for writes of 32 bytes.
int32_t skipstone_model_hash(const skipstone_model *model, uint8_t (*out)[32]);

// Options, all at their defaults.
//
// # Safety
// `out` is NULL or valid for writes.
int32_t skipstone_options_create(skipstone_options **out);

// Sets an option:
//
// - "hint": "latency" (default: one stream on all threads, no batches) or "throughput" (as many
//   streams as threads, batches of what waits);
// - "threads": of all streams together (default: the CPUs this process may use);
// - "streams": batches that run at the same time;
// - "max_batch": images per batch; "max_delay_us": how long an image waits for others (default 0);
// - "max_queue": images that may wait (default 256 or more);
// - "warm_up": "1" runs each stream once before skipstone_session_create returns;
// - "numerics": "fast" (default), "strict" (direct convolution alone) or "relaxed" (also Winograd's
//   F(6x6), where it was measured to be faster);
// - "input_size": "HxW" in place of the network's own, or "recipe": that of the model's recipe;
// - "isa", "spin_us": as the variables SKIPSTONE_ISA and SKIPSTONE_SPIN_US.
//
// An unknown key or value is SKIPSTONE_ERROR_INVALID_ARGUMENT, and changes nothing.
//
// # Safety
// Pointers are NULL or valid.
int32_t skipstone_options_set(skipstone_options *options, const char *key, const char *value);

// NULL is fine.
//
// # Safety
// `options` is NULL or a handle that is not used again.
void skipstone_options_destroy(skipstone_options *options);

// Threads for sessions to share, by the options "threads", "isa" and "spin_us"; `options` may be NULL.
//
// # Safety
// Pointers are NULL or valid.
int32_t skipstone_runtime_create(const skipstone_options *options,
                                 skipstone_runtime **out);

// Sessions that use it keep it alive. NULL is fine.
//
// # Safety
// `runtime` is NULL or a handle that is not used again.
void skipstone_runtime_destroy(skipstone_runtime *runtime);

// Plans a model, and starts what runs it. `options` may be NULL. `runtime` may be NULL: the session
// then has threads of its own.
//
// # Safety
// Pointers are NULL or valid.
int32_t skipstone_session_create(const skipstone_model *model,
                                 const skipstone_options *options,
                                 const skipstone_runtime *runtime,
                                 skipstone_session **out);

// Finishes the requests that were accepted, then ends the threads. Not from a `skipstone_done`, and
// not while other calls use the session. NULL is fine.
//
// # Safety
// `session` is NULL or a handle that is not used again.
void skipstone_session_destroy(skipstone_session *session);

// An input, with the size it has in this session.
//
// # Safety
// Pointers are NULL or valid; `out->struct_size` says the size of `*out`.
int32_t skipstone_session_input(const skipstone_session *session,
                                size_t index,
                                skipstone_tensor_info *out);

// An output, with the size it has in this session.
//
// # Safety
// As `skipstone_session_input`.
int32_t skipstone_session_output(const skipstone_session *session,
                                 size_t index,
                                 skipstone_tensor_info *out);

// What was chosen, and the plan of a batch of one step by step, as JSON; it lives as long as the
// session.
//
// # Safety
// Pointers are NULL or valid.
int32_t skipstone_session_report(const skipstone_session *session, const char **out);

// Runs all images of the inputs, and waits for them. The sizes of the inputs tell how many images
// they are. Inputs are read, and outputs written, where they are. `timeout_us` is how long the
// request may wait in the queue, 0 for as long as it takes. `timing` may be NULL.
//
// # Safety
// Pointers are NULL or valid for what they say; outputs overlap nothing else. The arrays' elements
// have the size that the first one's struct_size says.
int32_t skipstone_session_run(const skipstone_session *session,
                              const skipstone_input *inputs,
                              size_t input_count,
                              const skipstone_output *outputs,
                              size_t output_count,
                              int64_t timeout_us,
                              skipstone_timing *timing);

// As skipstone_session_run, but returns at once; `done` is called later, unless this returns an
// error. Until then all memory of inputs and outputs stays valid and is left alone; the arrays
// themselves may go.
//
// # Safety
// As `skipstone_session_run`, until `done` is called.
int32_t skipstone_session_submit(const skipstone_session *session,
                                 const skipstone_input *inputs,
                                 size_t input_count,
                                 const skipstone_output *outputs,
                                 size_t output_count,
                                 int64_t timeout_us,
                                 skipstone_done done,
                                 void *user);

// The best classes of a JPEG or PNG file in memory, prepared by the model's recipe, best first:
// `capacity` of them or all, into `classes`; `count` gets their number. SKIPSTONE_ERROR_UNSUPPORTED
// if the library was built without the feature `image`.
//
// # Safety
// Pointers are NULL or valid for what they say; `classes` has `capacity` elements of the size that
// the first one's struct_size says.
int32_t skipstone_session_classify(const skipstone_session *session,
                                   const void *file,
                                   size_t size,
                                   int64_t timeout_us,
                                   skipstone_class *classes,
                                   size_t capacity,
                                   size_t *count);

// Counters.
//
// # Safety
// Pointers are NULL or valid; `out->struct_size` says the size of `*out`.
int32_t skipstone_session_stats(const skipstone_session *session, skipstone_stats *out);

// Refuses new requests from now on (SKIPSTONE_ERROR_CLOSED); waits until those that were accepted
// have ended.
//
// # Safety
// `session` is NULL or a handle that is not destroyed during the call.
int32_t skipstone_session_close(const skipstone_session *session);

// Copies the text of this thread's last error to `buffer`, cut to `size` bytes with its NUL. Returns
// the size of the whole text with its NUL, so that `skipstone_last_error(NULL, 0)` tells how much
// room it needs; 1 if there was no error. A call that succeeds leaves the text alone.
//
// # Safety
// `buffer` is NULL or valid for writes of `size` bytes.
size_t skipstone_last_error(char *buffer,
                            size_t size);

// The name of a status, e.g. "queue full"; never NULL, static.
const char *skipstone_status_name(int32_t status);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SKIPSTONE_H */
