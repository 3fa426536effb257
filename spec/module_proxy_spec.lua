-- SPDX-License-Identifier: MIT
-- concur.module: blocking modules from tasks, objects that stay in their worker.

local concur = require "concur"
local errors = require "concur.errors"
local support = require "spec.support"

local function raised(fn, ...)
  local ok, e = pcall(fn, ...)
  assert.is_false(ok, "an error was expected")
  return e
end

describe("concur.module", function()
  it("calls functions on a worker while the loop goes on", function()
    concur.run(function()
      local os_ <close> = concur.module "os"
      local ticks = 0
      local ticker = concur.spawn(function()
        while true do
          concur.sleep(0.01)
          ticks = ticks + 1
        end
      end)
      assert.is_true((os_.execute "sleep 0.1"))
      assert.is_true(ticks >= 3, ticks)
      ticker:cancel()
      local day = { year = 2020, month = 1, day = 1 }
      assert.equal(os.time(day), os_.time(day))
    end)
  end)

  it("runs calls at the same time", function()
    concur.run(function()
      local os_ <close> = concur.module "os"
      local began = concur.now()
      concur.gather(function()
        os_.execute "sleep 0.2"
      end, function()
        os_.execute "sleep 0.2"
      end, function()
        os_.execute "sleep 0.2"
      end)
      assert.is_true(concur.now() - began < 0.55 * support.time_scale)
    end)
  end)

  it("keeps objects in their worker, behind handles", function()
    local name = support.tmpdir() .. "/file"
    concur.run(function()
      local io_ <close> = concur.module "io"
      local file = io_.open(name, "w")
      assert.truthy(tostring(file):find "concur.Handle %(FILE")
      assert.equal(file, (file:write("one\n", "two\n")))
      file:close()
      assert.equal("one\ntwo\n", support.read_file(name))
      assert.is_true(errors.is(
        raised(function()
          file:write "x"
        end),
        "Closed"
      ))
      local lines = {}
      for line in io_.lines(name) do
        lines[#lines + 1] = line
      end
      assert.same({ "one", "two" }, lines)
      assert.equal("file", (io_.type(io_.open(name))))
    end)
  end)

  it("closes what a handle stands for with the handle", function()
    local before = support.fds()
    local name = support.tmpdir() .. "/file"
    support.write_file(name, "x")
    concur.run(function()
      local io_ <close> = concur.module("io", { workers = 1 })
      do
        local file <close> = io_.open(name)
        assert.equal("x", (file:read "a"))
      end
      local open = io_.open(name) -- luacheck: ignore
      open = nil -- luacheck: ignore
      collectgarbage()
      collectgarbage()
      io_.type(1) -- one worker: behind the release
      local count = 0
      local listing <close> = io.popen("ls -l /proc/" .. support.pid() .. "/fd")
      for line in listing:lines() do
        count = count + (line:find(name, 1, true) and 1 or 0)
      end
      assert.equal(0, count)
    end)
    concur.get_event_loop():close()
    assert.is_true(support.fds() <= before)
  end)

  it("reads and assigns fields, also in workers that come later", function()
    local dir = support.tmpdir()
    support.write_file(
      dir .. "/with_fields.lua",
      [[
      local M = { limit = 1, sub = { twice = function(x) return 2 * x end } }
      function M.get() return M.limit end
      function M.wait() require("concur").sleep(0.05) return M.limit end
      return M ]]
    )
    local path = package.path
    package.path = dir .. "/?.lua;" .. path
    local ok, e = pcall(concur.run, function()
      local module <close> = concur.module "with_fields"
      assert.equal(1, module.limit)
      module.limit = 7
      assert.equal(7, module.limit)
      assert.equal(7, (module.get()))
      assert.same({ 7, 7 }, { concur.gather(module.wait, module.wait) })
      assert.equal(8, (module.sub.twice(4)))
      assert.is_nil(module.nothing)
    end)
    package.path = path
    assert.is_true(ok, e)
  end)

  it("raises errors of the module", function()
    concur.run(function()
      local string_ <close> = concur.module "string"
      local e = raised(function()
        string_.rep()
      end)
      assert.is_true(errors.is(e, "RemoteError"))
      assert.truthy(e.message:find "bad argument #1 to '.*rep'")
      e = raised(concur.module, "no_such_module")
      assert.truthy(tostring(e):find "module 'no_such_module' not found")
      assert.truthy(raised(concur.module, 5):find "string expected")
      assert.truthy(raised(concur.module, "io", { worker = 1 }):find "unknown option 'worker'")
    end)
  end)

  it("refuses objects of two workers in one call", function()
    local name = support.tmpdir() .. "/file"
    support.write_file(name, "x")
    concur.run(function()
      local io_ <close> = concur.module "io"
      local other <close> = concur.module "io"
      local a, b = io_.open(name), other.open(name)
      assert.equal("file", (other.type(a)))
      local e = raised(io_.type, a, b)
      assert.is_true(errors.is(e, "TransferError"))
      assert.truthy(e.message:find "argument 2")
      a:close()
      b:close()
    end)
  end)
end)
