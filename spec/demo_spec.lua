-- What `make demo` runs, on small trees: digests, bad input, and Ctrl-C.
local lfs = require "lfs"
local support = require "spec.support"

local PROGRAM = "examples/hash_tree.lua"

local function run(args, options)
  options = options or {}
  options.args = args
  return support.run_file(PROGRAM, options)
end

-- A tree with what can be in one: empty files, all bytes, sizes around the digest's block of 64
-- bytes, names with spaces, hidden files, a link to a file and one in a circle.
local function make_tree()
  local root = support.tmpdir()
  assert(lfs.mkdir(root .. "/sub"))
  assert(lfs.mkdir(root .. "/sub/deep er"))
  assert(lfs.mkdir(root .. "/empty directory"))
  for _, size in ipairs { 0, 1, 55, 56, 63, 64, 65, 119, 120, 4096 } do
    support.write_file(("%s/sub/%d.bin"):format(root, size), ("\xff\0\n"):rep(size):sub(1, size))
  end
  local bytes = {}
  for i = 0, 255 do
    bytes[#bytes + 1] = string.char(i)
  end
  support.write_file(root .. "/sub/deep er/all bytes", table.concat(bytes))
  -- More than one of the chunks that the program reads at a time.
  support.write_file(root .. "/.hidden", ("concur"):rep(100000))
  assert(lfs.link("sub/0.bin", root .. "/link", true))
  assert(lfs.link("..", root .. "/sub/circle", true))
  return root, 12
end

local function lines_of(text)
  local lines = {}
  for line in text:gmatch "[^\n]+" do
    lines[#lines + 1] = line
  end
  table.sort(lines)
  return lines
end

local function sha256sum(root)
  local find = 'find "$1" -type f -exec sha256sum {} +'
  local result = support.execute { "sh", "-c", find, "sh", root }
  assert.equal(0, result.code, support.describe(result))
  return lines_of(result.stdout)
end

describe("the demo", function()
  it("computes the digests that sha256sum computes", function()
    local root, files = make_tree()
    local expected = sha256sum(root)
    assert.equal(files, #expected)
    local result = run { "--list", root }
    assert.equal(0, result.code, support.describe(result))
    assert.same(expected, lines_of(result.stdout))
  end)

  it("computes the same with one worker and with many", function()
    local root = make_tree()
    local expected = sha256sum(root)
    for _, jobs in ipairs { "1", "7" } do
      local result = run { "--list", "--jobs", jobs, root }
      assert.equal(0, result.code, support.describe(result))
      assert.same(expected, lines_of(result.stdout))
    end
  end)

  it("prints a summary with the speed-up, in 80 columns and without control characters", function()
    local root, files = make_tree()
    local result = run { "--jobs=2", root }
    assert.equal(0, result.code, support.describe(result))
    assert.truthy(result.stdout:find("2 worker threads +" .. files .. " "))
    assert.truthy(result.stdout:find("one thread +" .. files .. " "))
    assert.truthy(result.stdout:find "speed%-up +[%d.]+ x\n")
    assert.is_nil(result.stdout:find "[\r\27]")
    for line in result.stdout:gmatch "[^\n]+" do
      assert.is_true(#line <= 80 or line:find(root, 1, true) ~= nil, line)
    end
  end)

  it("draws nothing when stderr is no terminal", function()
    local root = make_tree()
    local result = run { root }
    assert.equal(0, result.code, support.describe(result))
    assert.equal("", result.stderr)
  end)

  it("draws a bar on a terminal, and takes it away at the end", function()
    local root = support.tmpdir()
    for i = 1, 30 do
      support.write_file(("%s/%d"):format(root, i), ("x"):rep(200000))
    end
    local result = support.execute({ "script", "-q", "-e", "-c",
      ("%s %s --jobs 1 %s"):format(support.lua, PROGRAM, root), "/dev/null" }, {
      env = {
        LUA_PATH = support.root .. "/lua/?.lua;" .. support.root .. "/lua/?/init.lua;;",
        LUA_CPATH = support.build .. "/?.so;;",
      },
    })
    assert.equal(0, result.code, support.describe(result))
    assert.truthy(result.stdout:find "hashing +%d+%% .*%d+/30 files .* MB/s %d:%d%d left")
    assert.truthy(result.stdout:find("\r\27[K\r\n", 1, true), "the bar stayed")
  end)

  it("says what is missing in one line, and goes on with the rest", function()
    local root, files = make_tree()
    local result = run { root .. "/nowhere", root }
    assert.equal(1, result.code, support.describe(result))
    assert.equal("hash_tree: " .. root .. "/nowhere: No such file or directory\n", result.stderr)
    assert.truthy(result.stdout:find("worker threads? +" .. files .. " "))
  end)

  it("says so when there is nothing to hash", function()
    local root = support.tmpdir()
    local result = run { root }
    assert.equal(1, result.code, support.describe(result))
    assert.equal("hash_tree: there is no file to hash\n", result.stderr)
    result = run { root .. "/nowhere" }
    assert.equal(1, result.code, support.describe(result))
    assert.is_nil(result.stderr:find "traceback", support.describe(result))
  end)

  it("says which file cannot be read, and goes on with the rest", function()
    local root, files = make_tree()
    -- Reading it from the start fails for everybody, root included.
    local result = run { "/proc/self/mem", root }
    assert.equal(1, result.code, support.describe(result))
    assert.equal("hash_tree: /proc/self/mem: Input/output error\n", result.stderr)
    assert.truthy(result.stdout:find("worker threads? +" .. files .. " "))
    assert.truthy(result.stdout:find("1 file could not be read", 1, true))
  end)

  it("explains its options", function()
    local result = run { "--help" }
    assert.equal(0, result.code)
    assert.truthy(result.stdout:find("usage: ", 1, true))
    assert.truthy(result.stdout:find("--jobs N", 1, true))
    assert.equal("", result.stderr)
  end)

  for _, case in ipairs {
    { { "--fast" }, "unknown option '--fast'" },
    { { "-x", "lua" }, "unknown option '-x'" },
    { { "--jobs" }, "--jobs needs a number" },
    { { "--jobs", "0" }, "--jobs must be a whole number from 1 to 1024, not '0'" },
    { { "--jobs=two" }, "--jobs must be a whole number from 1 to 1024, not 'two'" },
    { { "-j", "1.5" }, "-j must be a whole number from 1 to 1024, not '1.5'" },
  } do
    local words = table.concat(case[1], " ")
    it("refuses `" .. words .. "` with exit code 2", function()
      local result = run(case[1])
      assert.equal(2, result.code, support.describe(result))
      assert.equal(("hash_tree: %s (--help lists the options)\n"):format(case[2]), result.stderr)
      assert.equal("", result.stdout)
    end)
  end

  it("takes what follows -- for paths", function()
    local root = support.tmpdir()
    support.write_file(root .. "/--list", "x")
    local result = support.run_file(support.root .. "/" .. PROGRAM, {
      args = { "--", "--list" },
      cwd = root,
    })
    assert.equal(0, result.code, support.describe(result))
    assert.truthy(result.stdout:find("below --list", 1, true))
  end)
end)

describe("Ctrl-C in the demo", function()
  -- Runs it on small files and one so large that it cannot be done, and interrupts it by its pid.
  local function interrupt_after(seconds, args)
    local root = support.tmpdir()
    support.write_file(root .. "/a", "a")
    support.write_file(root .. "/b", "b")
    local large <close> = assert(io.open(root .. "/large", "wb"))
    assert(large:seek("set", 20000000000)) -- holes take no room on the disk
    assert(large:write "x")
    large:close()
    local script = ("(sleep %g; kill -INT $$) & exec %s %s %s %s"):format(
      seconds * support.time_scale, support.lua, PROGRAM, table.concat(args or {}, " "), root)
    return support.execute({ "sh", "-c", script }, {
      env = {
        LUA_PATH = support.root .. "/lua/?.lua;" .. support.root .. "/lua/?/init.lua;;",
        LUA_CPATH = support.build .. "/?.so;;",
      },
    })
  end

  it("stops it soon, with a partial summary and the status of an interrupted program", function()
    local result = interrupt_after(1)
    assert.is_false(result.timed_out, support.describe(result))
    assert.is_true(result.signal == 2 or result.code == 130, support.describe(result))
    assert.truthy(result.stdout:find("worker threads? +2 "), support.describe(result))
    assert.truthy(result.stdout:find("interrupted: 2 of 3 files were hashed", 1, true))
    assert.is_nil(result.stdout:find("speed-up", 1, true))
    assert.equal("", result.stderr)
  end)

  it("still prints the digests that there are", function()
    local result = interrupt_after(1, { "--list" })
    assert.is_true(result.signal == 2 or result.code == 130, support.describe(result))
    assert.equal(2, #lines_of(result.stdout))
    assert.truthy(result.stderr:find("interrupted: 2 of 3 files were hashed", 1, true))
  end)
end)
