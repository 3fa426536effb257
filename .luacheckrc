-- Settings of luacheck (`make lint`).
std = "lua54"
max_line_length = 100
max_comment_line_length = false -- an annotation cannot go on in the next line
exclude_files = { "build", "types" }

files["spec"] = {
  std = "+busted",
}
files["spec/support/fault_driver.lua"] = { read_globals = { "testhost" } }
files[".busted"] = { std = "lua54" }
