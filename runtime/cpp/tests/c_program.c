/* The C API from C: c_program BUNDLE IMAGE. */
#include <stdio.h>
#include <stdlib.h>

#include "resnet_runtime/c_api.h"

static int failed(resnet_error* error) {
  printf("%s\t%s\n", resnet_error_kind(error), resnet_error_message(error));
  resnet_error_free(error);
  return 1;
}

int main(int count, char** arguments) {
  resnet_session* session = NULL;
  resnet_options options = {NULL, "fp32", "", 1};
  resnet_error* error = resnet_session_load(arguments[1], &options, &session);
  if (error != NULL) return failed(error);
  resnet_tensor_info input = resnet_session_input(session), output = resnet_session_output(session, 0);
  void* batch = calloc(input.elements, input.type == 0 ? 4 : 1);
  float* answer = calloc(output.elements, sizeof(float));
  const char* paths[] = {count > 2 ? arguments[2] : ""};
  error = resnet_session_preprocess(session, paths, 1, batch);
  if (error == NULL) error = resnet_session_infer(session, batch, 1, &answer);
  if (error == NULL) {
    printf("%s\t%zu\t%s\n", resnet_session_description(session), resnet_session_output_count(session), output.name);
    for (size_t index = 0; index < output.elements; ++index) {
      const char* label = resnet_session_label(session, index);
      printf("%s\t%.9g\n", label == NULL ? "-" : label, answer[index]);
    }
  }
  free(batch);
  free(answer);
  resnet_session_free(session);
  return error == NULL ? 0 : failed(error);
}
