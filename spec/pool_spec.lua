-- SPDX-License-Identifier: MIT
-- csrc/pool.c without Lua: builds spec/host/pool_test.c and runs it with several seeds.

local support = require "spec.support"

local function flags(...)
  local result = support.execute { "pkg-config", ... }
  local words = {}
  for word in result.stdout:gmatch "%S+" do
    words[#words + 1] = word
  end
  return words
end

-- The sanitizer that concur itself was built with, from the commands that make wrote down.
local function sanitizers()
  local file = io.open(support.build .. "/flags")
  local text = file and file:read "a" or ""
  if file then
    file:close()
  end
  local found = {}
  for flag in text:gmatch "%-fsanitize=%S+" do
    found[#found + 1] = flag
  end
  return found
end

local function build()
  local program = support.tmpdir() .. "/pool_test"
  local argv = { os.getenv "CC" or "cc", "-std=c11", "-D_GNU_SOURCE", "-O1", "-g" }
  for _, list in ipairs { sanitizers(), flags("--cflags", "libuv") } do
    table.move(list, 1, #list, #argv + 1, argv)
  end
  argv[#argv + 1] = support.root .. "/spec/host/pool_test.c"
  for _, name in ipairs { "pool", "pool_job", "pool_thread", "mailbox", "platform" } do
    argv[#argv + 1] = support.root .. "/csrc/" .. name .. ".c"
  end
  table.move({ "-pthread", "-o", program }, 1, 3, #argv + 1, argv)
  local libraries = flags("--libs", "libuv")
  table.move(libraries, 1, #libraries, #argv + 1, argv)
  local result = support.execute(argv, { timeout = 60 })
  assert.equal(0, result.code, support.describe(result))
  return program
end

describe("the pool in C", function()
  it("brings every job back exactly once, whatever happens", function()
    local seed = support.seed()
    local program = build()
    for i = 1, 3 do
      local result = support.execute({ program, tostring(seed + i), "2000" }, { timeout = 60 })
      assert.equal(0, result.code, support.describe(result))
      assert.equal(("seed %d: ok\n"):format(seed + i), result.stdout)
    end
  end)
end)
