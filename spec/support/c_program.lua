-- SPDX-License-Identifier: MIT
-- Programs in C that exercise parts of the core without Lua.

local support = require "spec.support"

local function flags(...)
  local words = {}
  for word in support.execute({ "pkg-config", ... }).stdout:gmatch "%S+" do
    words[#words + 1] = word
  end
  return words
end

-- How concur itself was instrumented, from the commands that make wrote down: sanitizers, coverage.
local function instruments()
  local found = {}
  local path = support.build .. "/flags"
  local file = io.open(path)
  if file then
    file:close()
    for flag in support.read_file(path):gmatch "%-%S+" do
      if flag:find "^%-fsanitize=" or flag == "--coverage" then
        found[#found + 1] = flag
      end
    end
  end
  return found
end

---Builds spec/host/<name>.c and links it with some of the core's objects, as the module has them.
---@param name string
---@param sources string[] without folder and ".c"
---@param wrapped? string[] functions whose calls go to the program's __wrap_<name> instead
---@return string path of the program, gone when the spec ends
return function(name, sources, wrapped)
  local program = support.tmpdir() .. "/" .. name
  local argv = { os.getenv "CC" or "cc", "-std=c11", "-D_GNU_SOURCE", "-O1", "-g" }
  local function add(list)
    table.move(list, 1, #list, #argv + 1, argv)
  end
  add(instruments())
  add(flags("--cflags", "libuv"))
  add { support.root .. "/spec/host/" .. name .. ".c" }
  for _, source in ipairs(sources) do
    add { support.build .. "/obj/" .. source .. ".o" }
  end
  for _, fn in ipairs(wrapped or {}) do
    add { "-Wl,--wrap=" .. fn }
  end
  add { "-pthread", "-o", program }
  add(flags("--libs", "libuv"))
  local result = support.execute(argv, { timeout = 60 })
  assert(result.code == 0, support.describe(result))
  return program
end
