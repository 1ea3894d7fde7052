# find_package(resnet_runtime) with this folder as resnet_runtime_DIR: the library is built with the project that asks.
if(NOT TARGET resnet::runtime)
  add_subdirectory("${CMAKE_CURRENT_LIST_DIR}" "${CMAKE_CURRENT_BINARY_DIR}/resnet_runtime" EXCLUDE_FROM_ALL)
endif()
