# find_package(resnet_runtime) with this folder as resnet_runtime_DIR: the library is built with the project that asks, and
# static, since the project's installation does not reach it.
if(NOT TARGET resnet::runtime)
  set(resnet_runtime_shared ${BUILD_SHARED_LIBS})
  set(BUILD_SHARED_LIBS OFF)
  add_subdirectory("${CMAKE_CURRENT_LIST_DIR}" "${CMAKE_CURRENT_BINARY_DIR}/resnet_runtime" EXCLUDE_FROM_ALL)
  set(BUILD_SHARED_LIBS ${resnet_runtime_shared})
endif()
