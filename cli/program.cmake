# GCC 12 (bug 105651) takes "text" + std::string for overlapping memory.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
endif()

# The program: polykv_commands is everything but main(), so that the tests link it too.
polykv_library(polykv_commands FOLDERS cli cli/commands
  LINK polykv_runtime LINK_PRIVATE CLI11::CLI11 nlohmann_json::nlohmann_json)
get_target_property(command_sources polykv_commands SOURCES)
list(REMOVE_ITEM command_sources ${PROJECT_SOURCE_DIR}/cli/main.cpp)
set_property(TARGET polykv_commands PROPERTY SOURCES ${command_sources})

add_executable(polykv cli/main.cpp)
target_link_libraries(polykv PRIVATE polykv_commands)
set_target_properties(polykv PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})

# Completions are made by the program itself; man pages lie in the tree (man/update makes them, a test compares).
set(completions ${CMAKE_BINARY_DIR}/completions)
add_custom_command(OUTPUT ${completions}/polykv ${completions}/_polykv ${completions}/polykv.fish
  COMMAND ${CMAKE_COMMAND} -E make_directory ${completions}
  COMMAND polykv completion bash > ${completions}/polykv
  COMMAND polykv completion zsh > ${completions}/_polykv
  COMMAND polykv completion fish > ${completions}/polykv.fish
  DEPENDS polykv VERBATIM)
add_custom_target(polykv_completions ALL DEPENDS ${completions}/polykv)

install(TARGETS polykv RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(FILES ${completions}/polykv DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
install(FILES ${completions}/_polykv DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
install(FILES ${completions}/polykv.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
file(GLOB man1 CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/man/*.1)
install(FILES ${man1} DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES man/polykv-pool.5 DESTINATION ${CMAKE_INSTALL_MANDIR}/man5)

if(POLYKV_TESTS)
  enable_testing()
  add_subdirectory(tests/cli)
endif()

# The default model, where ./dev setup has put it.
install(FILES ${PROJECT_SOURCE_DIR}/.deps/models/SmolLM2-135M-Instruct.Q4_1.gguf
  DESTINATION ${CMAKE_INSTALL_DATADIR}/polykv/models OPTIONAL)
