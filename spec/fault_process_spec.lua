-- SPDX-License-Identifier: MIT
-- Programs, worker processes and signals while libuv's handles, descriptors, shared memory and threads
-- are refused, and system calls interrupted: an error that says so or no error at all, no process and
-- no descriptor left. How it works: spec/support/faults.lua; memory: process_fault_spec.lua.

local children = require "spec.support.children"
local faults = require "spec.support.faults"
local support = require "spec.support"

local ERRORS = { "not enough memory", "ENOMEM", "EMFILE", "ENOSPC", "EAGAIN", "could be started" }
local NONE = { "there is no such error" }

-- What is no failure: the call is made again, or something else does the same.
local HARMLESS = {
  interrupted = { errno = 4, times = { "1", "7" } },
}

-- `kinds`: names of lists in spec/support/faults.lua; or a name = functions.
local function scenario(name, kinds, body)
  for _, kind in ipairs(kinds) do
    it(("%s (%s)"):format(name, kind), function()
      local before = children()
      local harmless = HARMLESS[kind]
      faults.fail_cleanly(faults.frame(body, { real = true }), faults[kind] or kind,
        harmless and NONE or ERRORS, harmless or { times = { "2" } })
      assert.same(before, children())
    end)
  end
end

describe("calls that fail in", function()
  scenario("a program", { "handles", "interrupted" }, [[
    concur.run(function()
      local child <close> = assert(concur.process.spawn { "cat" })
      local ok, err = child.stdin:write "text\n"
      if not ok then error(err, 0) end
      assert(child.stdin:close())
      local line, err = child.stdout:read "l"
      if not line then error(err, 0) end
      assert(line == "text" and child:wait() == 0)
    end)
  ]])

  -- The host of the faults is no interpreter that a pool finds by itself.
  scenario("a process pool", { "handles", "descriptors", "sharing" }, ([[
    concur.run(function()
      local pool <close> = concur.ProcessPoolExecutor { workers = 1, stderr = "tee",
        command = HOST }
      assert(pool:run(function(a, b) return a + b end, 1, 2) == 3)
    end)
  ]]):gsub("HOST", ("%q"):format(support.host)))

  -- In a process that is none it gets no further than this.
  scenario("the start of a worker process", { "memory", "primitives" }, [[
    local ok, err = pcall(require("concur.core").process_worker)
    if not tostring(err):find "no process that a ProcessPoolExecutor has started" then
      error(err, 0)
    end
  ]])

  it("memory without a name, for the link to a worker: a file in its place does as well", function()
    faults.fail_cleanly(faults.frame(([[
      concur.run(function()
        local pool <close> = concur.ProcessPoolExecutor { workers = 1, command = HOST }
        assert(pool:run(function(a, b) return a + b end, 1, 2) == 3)
      end)
    ]]):gsub("HOST", ("%q"):format(support.host)), { real = true }), "memfd_create", NONE,
      { times = { "all" } })
  end)
end)
