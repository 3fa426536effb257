-- Settings of luacheck (`make lint`).
std = "lua54"
max_line_length = 100
exclude_files = { "build", "types" }

files["spec"] = {
  std = "+busted",
}
files[".busted"] = { std = "lua54" }
