/* The runtime for other languages: no exception passes this boundary.
 *
 * A function that can fail returns an error, or NULL where it did not; who gets one frees it. Strings that a session
 * gives live as long as it does.
 */
#ifndef RESNET_RUNTIME_C_API_H
#define RESNET_RUNTIME_C_API_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct resnet_session resnet_session;
typedef struct resnet_error resnet_error;

/* NULL or "" is "auto" for the backend and the precision, and "latency" for the intent; threads 0: the library's way. */
typedef struct {
  const char* backend;
  const char* precision;
  const char* intent;
  int threads;
} resnet_options;

/* A tensor without its batch axis. type: 0 float32, 1 uint8. elements: of one sample. */
typedef struct {
  const char* name;
  int type;
  size_t rank;
  const int64_t* shape;
  size_t elements;
} resnet_tensor_info;

const char* resnet_version(void);

/* options may be NULL. */
resnet_error* resnet_session_load(const char* path, const resnet_options* options, resnet_session** session);
void resnet_session_free(resnet_session* session);

/* The backend's library, its version and its precision. */
const char* resnet_session_description(const resnet_session* session);
resnet_tensor_info resnet_session_input(const resnet_session* session);
size_t resnet_session_output_count(const resnet_session* session);

/* index: below the count. */
resnet_tensor_info resnet_session_output(const resnet_session* session, size_t index);

/* The name of a class, or NULL where the bundle has none. */
const char* resnet_session_label(const resnet_session* session, size_t index);

/* batch: `count` samples in C order. outputs: one pointer for each output, with room for `count` samples. */
resnet_error* resnet_session_infer(const resnet_session* session, const void* batch, int64_t count,
                                   float* const* outputs);

/* The batch of `count` JPEG or PNG files, as resnet_session_infer takes it, into memory of the caller's. */
resnet_error* resnet_session_preprocess(const resnet_session* session, const char* const* paths, size_t count,
                                        void* batch);

/* A sentence, and what belongs to it in lines of their own, indented by two spaces. */
const char* resnet_error_message(const resnet_error* error);

/* The name of Python's exception for it, such as "BundleError". */
const char* resnet_error_kind(const resnet_error* error);
void resnet_error_free(resnet_error* error);

#ifdef __cplusplus
}
#endif

#endif
